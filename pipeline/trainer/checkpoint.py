"""Checkpoints that are complete or do not exist.

All ranks write into `.checkpoint-<step>.partial`; the manifest with the size of every file is
written last, and the rename to `checkpoint-<step>` makes it visible.
"""

import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.files import sync_directory, sync_file, write_json
from pipeline.trainer.output_dir import (
    MANIFEST,
    Checkpoint,
    checkpoint_directories,
)
from pipeline.trainer.parallel.interface import Distributed
from pipeline.trainer.parallel.strategy import Strategy

logger = logging.getLogger(__name__)


def save_checkpoint(
    output_dir: Path,
    step: int,
    strategy: Strategy,
    distributed: Distributed,
    *,
    manifest: dict[str, Any],
    only_model: bool,
    save_total_limit: int | None,
    write_extras: Callable[[Path], None],
) -> Path:
    """Save at `step`; called by all ranks.

    `write_extras` is called on rank 0 with the directory, for tokenizer and trainer_state.json.
    With `only_model` there is no manifest: such a checkpoint can be served but not resumed.
    """
    target = output_dir / f"checkpoint-{step}"
    partial = output_dir / f".checkpoint-{step}.partial"
    if distributed.is_main:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    distributed.barrier()
    strategy.save_weights(partial)
    if not only_model:
        strategy.save_state(partial)
        torch.save(_random_state(), partial / f"rng_state_{distributed.rank}.pth")
    distributed.barrier()
    if distributed.is_main:
        write_extras(partial)
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        for file in files:
            sync_file(file)
        if not only_model:
            sizes = {str(file.relative_to(partial)): file.stat().st_size for file in files}
            write_json(partial / MANIFEST, {**manifest, "step": step, "files": sizes})
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        sync_directory(output_dir)
        logger.info("saved %s", target)
        _rotate(output_dir, save_total_limit)
    distributed.barrier()
    return target


def restore_random_state(checkpoint: Checkpoint, distributed: Distributed) -> None:
    file = checkpoint.directory / f"rng_state_{distributed.rank}.pth"
    if not file.is_file():
        return  # more ranks than before: the new ones start from the seed
    state = torch.load(file, weights_only=False)  # our own file; NumPy's state is no tensor
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "accelerator" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["accelerator"])


def _random_state() -> dict[str, Any]:
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["accelerator"] = torch.cuda.get_rng_state()
    return state


def _rotate(output_dir: Path, limit: int | None) -> None:
    """Keep the `limit` newest; called only after a newer one is complete."""
    if limit is None:
        return
    for directory in checkpoint_directories(output_dir)[:-limit]:
        logger.info("removing %s (save_total_limit %d)", directory, limit)
        shutil.rmtree(directory)
