"""Is this run the one that the checkpoint belongs to?"""

from collections.abc import Mapping
from typing import Any

from pipeline.errors import TrainError
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.plan import Plan
from pipeline.trainer.data.store import TokenStore
from pipeline.trainer.output_dir import Checkpoint

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
    """The keys that decide which weights are trained, and so which a checkpoint holds, and those
    that decide what they are compared with."""
    compared = ("pref_loss", "ref_model") if args.stage == "dpo" else ()
    return {key: getattr(args, key) for key in (*_DECIDE_WEIGHTS[args.finetuning_type], *compared)}


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
