"""Is this run the one that the checkpoint belongs to?"""

from collections.abc import Mapping
from typing import Any

from pipeline.errors import TrainError
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.plan import Plan
from pipeline.trainer.data.store import TokenStore
from pipeline.trainer.output_dir import Checkpoint
from pipeline.trainer.parallel.interface import Distributed
from pipeline.trainer.parallel.strategy import Strategy

_DECIDE_WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "full": ("finetuning_type",),
    "freeze": (
        "finetuning_type",
        "freeze_trainable_layers",
        "freeze_trainable_modules",
        "freeze_extra_modules",
    ),
    "lora": (
        "finetuning_type",
        "lora_rank",
        "lora_alpha",
        "lora_target",
        "additional_target",
        "use_rslora",
        "use_dora",
        "pissa_init",
        "pissa_iter",
        "adapter_name_or_path",
        "create_new_adapter",
        "quantization_bit",
        "quantization_type",
    ),
}


def check_same_sequence(checkpoint: Checkpoint | None, store: TokenStore, plan: Plan) -> None:
    """Raises: TrainError: other examples, or the same in another order; names what changed."""
    if checkpoint is None:
        return
    before = {**checkpoint.manifest["sequence"], "data": checkpoint.manifest["data"]}
    now = {**plan.identity(), "data": store.fingerprint}
    differing = [key for key in now if before.get(key) != now[key]]
    _refuse_changed(
        checkpoint, before, now, [key for key in differing if key != "plan"] or differing
    )


def trained_weights(args: TrainArgs) -> dict[str, Any]:
    """The keys that decide which weights are trained, and so which a checkpoint holds."""
    return {key: getattr(args, key) for key in _DECIDE_WEIGHTS[args.finetuning_type]}


def check_same_weights(checkpoint: Checkpoint | None, args: TrainArgs) -> None:
    """Raises: TrainError: the checkpoint holds other weights than the run would train."""
    if checkpoint is None:
        return
    before, now = checkpoint.manifest["weights"], trained_weights(args)
    _refuse_changed(checkpoint, before, now, [key for key in now if before.get(key) != now[key]])


def _refuse_changed(
    checkpoint: Checkpoint, before: dict[str, Any], now: dict[str, Any], keys: list[str]
) -> None:
    changed = [f"{key}: {before.get(key)} -> {now[key]}" for key in keys]
    if changed:
        raise TrainError(
            f"{checkpoint.directory}: cannot continue, the run is no longer the same "
            f"({'; '.join(changed)}); restore these settings, or start anew with another output_dir"
        )


def check_same_strategy(
    checkpoint: Checkpoint, strategy: Strategy, distributed: Distributed
) -> None:
    """Raises: TrainError: the optimizer's state is written in another way or for other ranks."""
    before = (checkpoint.manifest["strategy"], checkpoint.manifest["world_size"])
    now = (strategy.name, distributed.world_size)
    if _state_layout(*before) != _state_layout(*now):
        raise TrainError(
            f"{checkpoint.directory}: its optimizer state is that of {before[0]} on {before[1]} "
            f"ranks, but this run is {now[0]} on {now[1]}; use the same"
        )


def _state_layout(strategy: str, world_size: int) -> tuple[str, int]:
    """DeepSpeed partitions for a number of ranks; the states of others suit any."""
    if strategy.startswith("DeepSpeed"):
        return strategy, world_size
    return ("FSDP2" if strategy.startswith("FSDP2") else "DDP"), 0
