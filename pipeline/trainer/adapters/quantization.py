"""Frozen weights in 4 or 8 bits under an adapter (QLoRA, arXiv 2305.14314), through bitsandbytes.

Imports neither torch nor transformers by itself: the dry run asks here, too.
"""

import importlib.util
from typing import Any

from pipeline.errors import ConfigError
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.keys.finetuning import split_names
from pipeline.trainer.keys.lora import LoraKeys


def check_quantization(args: LoraKeys, deepspeed: str | None) -> None:
    """Raises: ConfigError: weights are to be quantised, and bitsandbytes is not installed, or what
    else is asked for would change them."""
    if not args.quantization_bit:
        return
    key = f"training.quantization_bit: {args.quantization_bit}"
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"{key}: needs bitsandbytes, which is not installed; pip install bitsandbytes, or "
            "remove the key"
        )
    if deepspeed:
        raise ConfigError(
            f"{key}: DeepSpeed would convert the quantised weights, and an adapter has little to "
            "partition; set training.deepspeed: null (DDP)"
        )
    adapters = split_names(args.adapter_name_or_path)
    if len(adapters) > 1 or (adapters and args.create_new_adapter):
        raise ConfigError(
            f"{key}: adapters cannot be merged into quantised weights; merge them first with sft "
            "export --to model"
        )


def quantization_config(args: TrainArgs, compute_dtype: Any) -> Any:
    """What `from_pretrained` quantises by, or None.

    Raises: ConfigError: as `check_quantization`.
    """
    check_quantization(args, args.deepspeed)
    if args.quantization_bit is None:
        return None
    from transformers import BitsAndBytesConfig

    if args.quantization_bit == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=args.quantization_type,
        bnb_4bit_use_double_quant=args.double_quantization,
        bnb_4bit_compute_dtype=compute_dtype,
    )
