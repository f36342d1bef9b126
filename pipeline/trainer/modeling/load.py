"""Loading and saving the model: one of Transformers' own, nothing of ours inside it."""

import copy
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from pipeline.errors import TrainError
from pipeline.trainer.adapters.lora import has_adapter, save_adapter
from pipeline.trainer.adapters.quantization import quantization_config
from pipeline.trainer.adapters.trained import select_trained
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.modeling.attention import check_isolates_documents, packed_implementation
from pipeline.trainer.modeling.compilation import Compilation
from pipeline.trainer.modeling.flex_attention import BLOCK_MASK, check_takes_block_masks
from pipeline.trainer.modeling.float8 import apply_float8
from pipeline.trainer.modeling.layers import set_layers
from pipeline.trainer.modeling.liger import apply_liger
from pipeline.trainer.modeling.reward_model import auto_class, check_scores, clear_new_score
from pipeline.trainer.modeling.rope import scale_rope
from pipeline.trainer.parallel.context.choice import check_attention_is_shared
from pipeline.trainer.parallel.partitioned_loading import Partitioning

logger = logging.getLogger(__name__)

CONTEXT_PARALLEL = "context_parallel"
"""The attention that `parallel/context` registers: each rank has a part of every sequence."""
_ATTENTION = {
    "auto": "sdpa",
    "sdpa": "sdpa",
    "disabled": "eager",
    "flex": BLOCK_MASK,
    "fa2": "flash_attention_2",
    "fa3": "flash_attention_3",
}


def load_config(args: TrainArgs) -> Any:
    """The model's config with `rope_scaling` applied."""
    config = AutoConfig.from_pretrained(
        args.model_name_or_path,
        revision=args.model_revision,
        trust_remote_code=args.trust_remote_code,
    )
    if args.rope_scaling:
        scale_rope(config, args.rope_scaling, args.cutoff_len)
    if args.stage == "rm":
        config.num_labels = 1
    return config


def load_skeleton(args: TrainArgs) -> PreTrainedModel:
    """The model without its weights. Raises: TrainError: the stage has no such model."""
    try:
        with torch.device("meta"):
            return auto_class(args.stage).from_config(
                load_config(args), trust_remote_code=args.trust_remote_code
            )
    except ValueError as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainError(f"{args.model_name_or_path}: stage {args.stage}: {reason}") from error


def load_model(
    args: TrainArgs, dtype: torch.dtype, partitioning: Partitioning | None = None
) -> PreTrainedModel:
    """The pretrained model, ready to be trained in `dtype`.

    Weights that are not trained are in bf16 where the forward pass is. Under ZeRO-3 and with
    `partitioning` every rank keeps its part while loading.

    Raises: TrainError: there is no such model, or the keys do not fit it.
    """
    config = load_config(args)
    loader: Any = auto_class(args.stage)
    device_map = None
    if partitioning is not None:
        loader = partitioning.class_for(loader, config, trust_remote_code=args.trust_remote_code)
        device_map = {"": partitioning.device}
    try:
        model, loading = loader.from_pretrained(
            args.model_name_or_path,
            config=config,
            revision=args.model_revision,
            trust_remote_code=args.trust_remote_code,
            dtype=_frozen_dtype(args, dtype),
            quantization_config=quantization_config(args, _frozen_dtype(args, dtype)),
            attn_implementation=attention_kernel(args, config),
            device_map=device_map,
            output_loading_info=True,
        )
    except (ImportError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainError(f"{args.model_name_or_path}: cannot load the model: {reason}") from error
    if args.stage == "rm":
        check_scores(model, args.model_name_or_path)
        clear_new_score(model, set(loading["missing_keys"]))
    return _prepared(model, args, dtype)


def empty_model(args: TrainArgs, dtype: torch.dtype) -> PreTrainedModel:
    """As `load_model`, with weights that nobody has read: for what they need, not what they say.

    Nothing is compiled or offloaded to the host.
    """
    # Neither given adapters nor the decomposition of weights nor kernels are there.
    changed: dict[str, Any] = {
        "adapter_name_or_path": None,
        "pissa_init": False,
        "enable_liger_kernel": False,
        "torch_compile": False,
        "torch_compile_backend": None,
        "torch_compile_mode": None,
    }
    if args.flash_attn in ("fa2", "fa3"):
        changed["flash_attn"] = "auto"
    if args.recompute == "offload":
        changed |= {"use_unsloth_gc": False, "checkpoint_activations": "full"}
    args = args.model_copy(update=changed)
    config = load_config(args)
    model = auto_class(args.stage).from_config(
        config,
        trust_remote_code=args.trust_remote_code,
        dtype=_frozen_dtype(args, dtype),
        attn_implementation=attention_kernel(args, config),
    )
    return _prepared(model, args, dtype)


def attention_kernel(args: TrainArgs, config: Any) -> str:
    """Under Transformers' name for it, or one that this engine adds."""
    if args.sequence_parallel_size > 1:
        return CONTEXT_PARALLEL
    if args.concatenates and args.flash_attn == "auto":
        return packed_implementation(config)
    return _ATTENTION[args.flash_attn]


def _frozen_dtype(args: TrainArgs, dtype: torch.dtype) -> torch.dtype:
    return torch.bfloat16 if args.bf16 and args.finetuning_type != "full" else dtype


def _prepared(model: PreTrainedModel, args: TrainArgs, dtype: torch.dtype) -> PreTrainedModel:
    if args.sequence_parallel_size > 1:
        check_attention_is_shared(model, args.model_name_or_path)
    if args.flash_attn == "flex":
        check_takes_block_masks(model, args.model_name_or_path)
    if args.packs or args.trains_pairs:
        check_isolates_documents(model, args.model_name_or_path, args.stage)
    if args.enable_liger_kernel:
        apply_liger(model)
    if args.fp8:
        apply_float8(model)
    select_trained(model, args, dtype)
    set_layers(model, args.recompute, Compilation.of(args))
    return model.train()


def save_model(
    model: PreTrainedModel, state: dict[str, torch.Tensor], directory: Path, *, bf16: bool
) -> None:
    """Write what was trained: an adapter as it is, or the model in the training's dtype with
    `config.json` and `generation_config.json`."""
    if has_adapter(model):
        save_adapter(model, state, directory)
        return
    save_whole_model(model, state, directory, torch.bfloat16 if bf16 else torch.float32)


def save_whole_model(
    model: PreTrainedModel,
    state: dict[str, torch.Tensor],
    directory: Path,
    dtype: torch.dtype,
    max_shard_size: str = "50GB",
) -> None:
    """Write `config.json`, `generation_config.json` and safetensors of `state` in `dtype`."""
    converted: dict[int, torch.Tensor] = {}  # tied weights stay one tensor

    def convert(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        return converted.setdefault(tensor.data_ptr(), tensor.to(dtype))

    model.save_pretrained(
        directory,
        state_dict={name: convert(tensor) for name, tensor in state.items()},
        max_shard_size=max_shard_size,
    )
    # save_pretrained notes the dtype of the live model, which may be that of fp32 master weights.
    config = copy.deepcopy(model.config)
    config.dtype = dtype
    config.save_pretrained(directory)
