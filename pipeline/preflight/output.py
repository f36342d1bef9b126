"""Checks of where the run writes to and what it continues from."""

from collections.abc import Iterator

from pipeline.launch.machine import disk_free_bytes
from pipeline.paths import from_root
from pipeline.preflight.memory import model_size
from pipeline.preflight.report import Check, Context
from pipeline.runs.lock import live_owner
from pipeline.trainer import output_dir as directory

_GIB = 2**30
_CPU_SPARE_BYTES = 200 * 2**20


def check_output_dir(context: Context) -> Iterator[Check]:
    training, output_dir = context.given.training, context.paths.output_dir
    owner = live_owner(output_dir)
    if owner is not None:
        yield Check(
            "FAIL",
            "output_dir",
            f"{output_dir} belongs to a run that is alive: {owner.run_label}, process {owner.pid} "
            f"on {owner.host} since {owner.started_at}",
            "wait for it, stop it, or choose another training.output_dir",
        )
    directory.check_output_dir(
        output_dir,
        overwrite=training.overwrite_output_dir,
        resuming=bool(training.resume_from_checkpoint),
    )
    if training.resume_from_checkpoint:
        state = "continued"
    elif output_dir.exists() and any(output_dir.iterdir()):
        state = "the earlier run in it is replaced (overwrite_output_dir)"
    else:
        state = "new"
    yield Check("OK", "output_dir", f"{output_dir}: {state}")


def check_resume(context: Context) -> Iterator[Check]:
    training = context.given.training
    asked = training.resume_from_checkpoint
    if training.save_only_model and training.save_strategy != "no":
        yield Check(
            "WARN",
            "resume",
            "save_only_model leaves the optimizer out, so checkpoints cannot be resumed; only one "
            "that is written after a signal can",
            "set training.save_only_model: false",
        )
    if not asked or context.given.infrastructure.engine != "native":
        return
    path = asked if asked == directory.LATEST else str(from_root(asked))
    checkpoint = directory.find_resume(context.paths.output_dir, path)
    assert checkpoint is not None
    yield Check("OK", "resume", f"{checkpoint.directory} is complete, step {checkpoint.step}")


def check_disk(context: Context) -> Iterator[Check]:
    """Weights plus optimizer state per checkpoint, as many as are kept, plus the final model."""
    training = context.given.training
    free = disk_free_bytes(context.paths.output_dir)
    size = model_size(context)
    if size is None:
        yield Check("WARN", "disk", f"{free / _GIB:.1f} GiB free; the need is unknown")
        return
    weights = size.num_parameters * (2 if training.bf16 else 4)
    # fp32 master weights and two moments; DDP also keeps them in fp32.
    state = 0 if training.save_only_model else size.num_parameters * 12
    kept = 0 if training.save_strategy == "no" else (training.save_total_limit or 3) + 1
    needed = weights + kept * (weights + state) + _CPU_SPARE_BYTES
    counted = "" if training.save_total_limit else ", assuming 3 checkpoints (no save_total_limit)"
    text = f"{free / _GIB:.1f} GiB free, about {needed / _GIB:.1f} GiB needed{counted}"
    if needed > free:
        yield Check(
            "FAIL",
            "disk",
            text,
            "free space, lower training.save_total_limit, or move infrastructure.artifacts_dir",
        )
    else:
        yield Check("OK", "disk", text)
