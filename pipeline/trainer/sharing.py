"""Whether a run computes once what its examples share: what keys, data and model say."""

from typing import Any

from transformers import PreTrainedModel

from pipeline.errors import ConfigError
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.example_trees import has_shared_prefixes
from pipeline.trainer.data.store import TokenStore
from pipeline.trainer.modeling.attention import state_carriers


def with_sharing(args: TrainArgs, store: TokenStore, model: PreTrainedModel) -> TrainArgs:
    """The same keys with `share_prefixes` decided; null means where the model allows it.

    `model` may be without weights (`load_skeleton`).

    Raises: ConfigError: it is true, and the model does not allow it.
    """
    obstacle = _obstacle(args, model)
    if args.share_prefixes and obstacle:
        raise ConfigError(f"share_prefixes: {obstacle}; set training.share_prefixes to false")
    shares = args.share_prefixes
    if shares is None:
        shares = obstacle is None and has_shared_prefixes(store)
    return args.model_copy(update={"share_prefixes": shares})


def _obstacle(args: TrainArgs, model: Any) -> str | None:
    """Why this model cannot be trained along branches; None: it can."""
    if args.moe_aux_loss_coef:
        return "moe_aux_loss_coef balances the experts of every example for itself"
    flash_attn = args.flash_attn
    carriers = state_carriers(model)
    if carriers:
        return f"{carriers} of this model carry one branch's state into the next one"
    if flash_attn in ("fa2", "fa3"):
        return f"flash_attn {flash_attn} knows no branches"
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ()
    if "chunked_attention" in kinds:
        return "layers of kind chunked_attention cut sequences where they are long, not by branch"
    # Transformers 5.17 says of models with soft capping that PyTorch's kernels can do it.
    caps = getattr(model.config.get_text_config(), "attn_logit_softcapping", None)
    if flash_attn == "auto" and (caps or not model._supports_sdpa):
        return (
            "this model's attention is more than masking, which PyTorch's kernels cannot do: set "
            "training.flash_attn: disabled (eager, with a mask)"
        )
    return None
