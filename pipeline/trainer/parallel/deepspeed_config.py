"""DeepSpeed's JSON with every `auto` filled in. Imports neither torch nor deepspeed."""

import json
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.trainer.args import TrainArgs

_UNSUPPORTED = ("optimizer", "scheduler")
_OFFLOADED = ("offload_optimizer", "offload_param")


def read_deepspeed_config(path: Path) -> dict[str, Any]:
    """Raises: ConfigError: the file is absent, no JSON object, or a section has the wrong shape."""
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(
            f"training.deepspeed: {path} does not exist; use training_config/deepspeed/"
            "ds_z3_config.json, or null for DDP"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"training.deepspeed: {path}: cannot be read ({error.strerror}); name a DeepSpeed JSON "
            "file"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}; repair it") from error
    found = config.get("zero_optimization") if isinstance(config, dict) else None
    zero: dict[str, Any] = found if isinstance(found, dict) else {}
    stage = zero.get("stage")
    if stage not in (0, 1, 2, 3):
        raise ConfigError(f"{path}: zero_optimization.stage must be 0, 1, 2 or 3 (got {stage})")
    for section in _UNSUPPORTED:
        if section in config:
            raise ConfigError(
                f"{path}: {section}: set learning_rate, optim and lr_scheduler_type in "
                f"config.yaml's training section instead and remove this section"
            )
    for section in ("bf16", "fp16"):
        value = config.get(section, {})
        if not isinstance(value, dict):
            raise ConfigError(
                f'{path}: {section}: not an object (got {value}); write {{"enabled": "auto"}}'
            )
    if "mics_shard_size" in zero:
        raise ConfigError(
            f"{path}: zero_optimization.mics_shard_size: DeepSpeed has removed MiCS; use "
            "zero_hpz_partition_size, or training.fsdp: hybrid_shard with deepspeed: null"
        )
    for key in _OFFLOADED:
        _check_offload(zero, key, path)
    return config


def fill_deepspeed_config(
    config: dict[str, Any], path: Path, args: TrainArgs, world_size: int, hidden_size: int
) -> dict[str, Any]:
    """The configuration for this run.

    Raises: ConfigError: a value that is not `auto` contradicts the training arguments, or the
        optimizer is none that DeepSpeed can run.
    """
    micro = args.per_device_train_batch_size
    accumulation = args.gradient_accumulation_steps
    filled = json.loads(json.dumps(config))
    _agree(filled, path, "train_micro_batch_size_per_gpu", micro, "per_device_train_batch_size")
    _agree(filled, path, "gradient_accumulation_steps", accumulation, "gradient_accumulation_steps")
    _agree(
        filled,
        path,
        "train_batch_size",
        micro * accumulation * world_size,
        "per_device_train_batch_size x gradient_accumulation_steps x ranks",
    )
    _agree(filled, path, "gradient_clipping", args.max_grad_norm, "max_grad_norm")
    for precision, wanted in (("bf16", args.bf16), ("fp16", False)):
        section = filled.setdefault(precision, {})
        _agree(section, path, "enabled", wanted, precision, prefix=f"{precision}.")
    zero = filled["zero_optimization"]
    group = zero.get("zero_hpz_partition_size", 1)
    if world_size % group:
        raise ConfigError(
            f"{path}: zero_optimization.zero_hpz_partition_size: {world_size} ranks cannot be "
            f"split into groups of {group}; choose a divisor"
        )
    # Transformers' own rules for these three; in elements, not bytes.
    for key, value in (
        ("reduce_bucket_size", hidden_size * hidden_size),
        ("stage3_prefetch_bucket_size", int(0.9 * hidden_size * hidden_size)),
        ("stage3_param_persistence_threshold", 10 * hidden_size),
    ):
        if zero.get(key) == "auto":
            zero[key] = value
    if filled["fp16"]["enabled"] is False:
        del filled["fp16"]  # its loss-scale settings only confuse when it is off
    if zero["stage"] == 0 and args.bf16:
        # Stage 0 would update bf16 weights in place and round small updates away. Like plain DDP
        # it gets fp32 weights, and the forward pass runs under autocast.
        filled["bf16"]["enabled"] = False
    if args.compiles and zero["stage"] == 3:
        raise ConfigError(
            "training.torch_compile: ZeRO-3 gathers the weights of every module inside a layer "
            "when it is called, which a compiled layer does not do; set training.deepspeed to null "
            "and training.fsdp to full_shard, or use stage 2"
        )
    if args.use_muon:
        raise ConfigError(
            "training.use_muon: DeepSpeed gives the optimizer flat pieces, and Muon needs whole "
            "matrices; set training.deepspeed to null, or use_muon to false"
        )
    if offloads_optimizer(filled) and not args.optim.startswith("adamw_torch"):
        raise ConfigError(
            f"{path}: zero_optimization.offload_optimizer keeps fp32 moments on the host, which "
            f"training.optim {args.optim} is not; write adamw_torch, or do not offload"
        )
    filled["zero_allow_untested_optimizer"] = True
    return filled


def offloads_optimizer(config: dict[str, Any]) -> bool:
    return _offload_device(config["zero_optimization"], "offload_optimizer") != "none"


def _offload_device(zero: dict[str, Any], key: str) -> str:
    return (zero.get(key) or {}).get("device", "none")


def _check_offload(zero: dict[str, Any], key: str, path: Path) -> None:
    """Raises: ConfigError: no such device, or this stage cannot move that to it."""
    where = f"{path}: zero_optimization.{key}"
    section = zero.get(key) or {}
    if not isinstance(section, dict):
        raise ConfigError(f'{where}: not an object (got {section}); write {{"device": "cpu"}}')
    device = _offload_device(zero, key)
    if device == "nvme":
        raise ConfigError(
            f"{where}.device: what DeepSpeed keeps on NVMe cannot be saved in checkpoints; "
            "offload to cpu, or use more ranks"
        )
    if device not in ("none", "cpu"):
        raise ConfigError(f"{where}.device must be none or cpu (got {device})")
    needed = 3 if key == "offload_param" else 1
    if device != "none" and zero["stage"] < needed:
        raise ConfigError(
            f"{where}: stage {zero['stage']} cannot keep that on {device}; use stage {needed}"
        )


def _agree(
    section: dict[str, Any], path: Path, key: str, wanted: Any, source: str, prefix: str = ""
) -> None:
    given = section.get(key, "auto")
    if given != "auto" and given != wanted:
        raise ConfigError(
            f"{path}: {prefix}{key} is {given}, but the run needs {wanted} ({source}); "
            f'write "auto" there'
        )
    section[key] = wanted
