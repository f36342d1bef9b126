"""Whether a model's attention can be split over ranks, and how. Imports no torch."""

from typing import Any, Literal

from pipeline.errors import ConfigError, TrainError
from pipeline.trainer.args import TrainingKeys

Mode = Literal["ulysses", "zigzag-ring"]

_WAY_OUT = "set training.sequence_parallel_size to 1"
_LOCAL_ROPE = ("dynamic", "longrope")
"""Rotary embeddings that depend on the largest position at hand, which differs between ranks."""


def choose_mode(keys: TrainingKeys, config: Any) -> Mode:
    """How `sequence_parallel_size` ranks share the sequences of a model with this config.

    `auto` is Ulysses where the heads can be shared out: it moves less, in fewer messages, and its
    kernels see whole documents. The ring works for any number of ranks.

    Raises:
        ConfigError: other attention kernels are asked for.
        TrainError: the model cannot, or not in the wanted mode; names the reason and a way out.
    """
    num_ranks, wanted = keys.sequence_parallel_size, keys.sequence_parallel_mode
    if keys.flash_attn not in ("auto", "sdpa"):
        raise ConfigError(
            f"flash_attn: {keys.flash_attn}: sequence_parallel_size {num_ranks} has attention of "
            "its own, on PyTorch's kernels; set training.flash_attn to auto"
        )
    if keys.moe_aux_loss_coef:
        raise ConfigError(
            "moe_aux_loss_coef: the balance of a document needs all of its tokens on one rank; "
            f"remove it, or {_WAY_OUT}"
        )
    text = config.get_text_config()
    name = config.model_type
    kinds = set(getattr(text, "layer_types", None) or ())
    others = sorted(kinds - {"full_attention", "sliding_attention"})
    if others:
        raise TrainError(
            f"sequence_parallel_size {num_ranks}: {name} has layers of kind {', '.join(others)}, "
            f"which need the whole sequence on one rank; {_WAY_OUT}"
        )
    local = sorted({kind for kind in _rope_types(text) if kind in _LOCAL_ROPE})
    if local:
        raise TrainError(
            f"sequence_parallel_size {num_ranks}: {name} has rotary embeddings of type "
            f"{', '.join(local)}, which depend on the longest document at hand; {_WAY_OUT}, or "
            "training.rope_scaling to yarn"
        )
    num_heads = getattr(text, "num_attention_heads", None)
    if num_heads is None:
        raise TrainError(
            f"sequence_parallel_size {num_ranks}: {name} has no attention heads; {_WAY_OUT}"
        )
    has_window = "sliding_attention" in kinds or (not kinds and _window(text) is not None)
    if num_heads % num_ranks == 0 and wanted != "zigzag-ring":
        return "ulysses"
    if wanted == "ulysses":
        raise TrainError(
            f"sequence_parallel_mode ulysses: {num_ranks} ranks cannot share the {num_heads} "
            f"attention heads of {name}; set training.sequence_parallel_mode to zigzag-ring, or "
            f"training.sequence_parallel_size to a divisor of {num_heads}"
        )
    if has_window:
        raise TrainError(
            f"sequence_parallel_mode zigzag-ring: {name} has a sliding window of {_window(text)} "
            "tokens, which the ring does not know; set training.sequence_parallel_mode to ulysses "
            f"and training.sequence_parallel_size to a divisor of its {num_heads} attention heads"
        )
    return "zigzag-ring"


def check_attention_is_shared(model: Any, name: str) -> None:
    """Raises: TrainError: this model would compute as if each rank's part were a whole sequence."""
    if model._is_stateful or not model._supports_attention_backend:
        raise TrainError(
            f"{name}: sequence_parallel_size: this model's attention cannot be replaced, or its "
            f"layers carry state from token to token; {_WAY_OUT}"
        )


def _window(text: Any) -> int | None:
    used = getattr(text, "use_sliding_window", True)
    return getattr(text, "sliding_window", None) if used else None


def _rope_types(text: Any) -> list[str]:
    parameters = getattr(text, "rope_parameters", None) or {}
    layers = [value for value in parameters.values() if isinstance(value, dict)]
    return [layer.get("rope_type", "default") for layer in layers or [parameters]]
