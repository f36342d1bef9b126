"""Checks of where the run writes to and what it continues from."""

import os
from collections.abc import Iterator

from pipeline.errors import ConfigError
from pipeline.launch.machine import disk_free_bytes
from pipeline.preflight.model import model_size
from pipeline.preflight.report import Check, Context
from pipeline.runs.index import running
from pipeline.runs.lock import live_owner
from pipeline.step2_train import resume_directory
from pipeline.trainer import output_dir as directory

_GIB = 2**30
_CPU_SPARE_BYTES = 200 * 2**20


def check_artifacts(context: Context) -> Iterator[Check]:
    artifacts = context.paths.artifacts
    existing = next(path for path in (artifacts, *artifacts.parents) if path.exists())
    if not existing.is_dir():
        yield Check(
            "FAIL",
            "artifacts",
            f"{artifacts}: {existing} is a file, not a directory",
            "choose another infrastructure.artifacts_dir",
        )
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield Check(
            "FAIL",
            "artifacts",
            f"{artifacts}: {existing} cannot be written by this user",
            "check its permissions, or choose another infrastructure.artifacts_dir",
        )
    else:
        yield Check("OK", "artifacts", f"{artifacts} can be written")


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
    for run in running(context.paths.artifacts):
        if run.get("run_name") == context.paths.run_name and run.get("output_dir") != str(
            output_dir.absolute()
        ):
            yield Check(
                "FAIL",
                "output_dir",
                f"the run name {context.paths.run_name} is in use by {run['id']}, and its training "
                f"YAML would be overwritten",
                "choose another experiment.run_name, or wait for it",
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
    if not asked:
        return
    native = context.given.infrastructure.engine == "native"
    found = resume_directory(context.paths.output_dir, asked, native=native)
    state = f"is complete, step {directory.read_checkpoint(found).step}" if native else "exists"
    yield Check("OK", "resume", f"{found} {state}")


def check_disk(context: Context) -> Iterator[Check]:
    """Weights plus optimizer state per checkpoint, as many as are kept, plus the final model."""
    training = context.given.training
    free = disk_free_bytes(context.paths.output_dir)
    try:
        size = model_size(context)
    except ConfigError:  # the check of the model says it
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
