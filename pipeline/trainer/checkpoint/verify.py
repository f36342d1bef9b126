"""Which checkpoint a run continues from: the newest that is whole to the last byte."""

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.errors import TrainError
from pipeline.trainer.output_dir import (
    LATEST,
    Checkpoint,
    checkpoint_directories,
    read_checkpoint,
)
from pipeline.trainer.parallel.interface import Distributed

logger = logging.getLogger(__name__)

_THREADS = 8


def whole_checkpoint(
    output_dir: Path, resume_from_checkpoint: str | None, distributed: Distributed
) -> Checkpoint | None:
    """The checkpoint to continue from, read whole once by all ranks together.

    Damaged ones are passed over with `latest`, and named.

    Raises: TrainError: no checkpoint is whole, or the one that was asked for by name is not.
    """
    if not resume_from_checkpoint:
        return None
    if resume_from_checkpoint != LATEST:
        return _read_whole(Path(resume_from_checkpoint), distributed)
    for directory in reversed(checkpoint_directories(output_dir)):
        try:
            return _read_whole(directory, distributed)
        except TrainError as error:
            logger.error("passed over: %s", error)
    raise TrainError(
        f"resume_from_checkpoint: {output_dir} holds no checkpoint that is whole; name one of "
        "another place, or remove training.resume_from_checkpoint to start from the beginning "
        "(training.overwrite_output_dir=true)"
    )


def _read_whole(directory: Path, distributed: Distributed) -> Checkpoint:
    checkpoint = read_checkpoint(directory)
    largest_first = sorted(checkpoint.files, key=lambda name: -checkpoint.files[name].size)
    mine = largest_first[distributed.rank :: distributed.world_size]
    with ThreadPoolExecutor(_THREADS) as pool:
        intact = list(pool.map(lambda name: _is_intact(checkpoint, name), mine))
    damaged = [name for name, is_intact in zip(mine, intact, strict=True) if not is_intact]
    for names in distributed.all_gather(damaged):
        if names:
            raise TrainError(
                f"{directory / names[0]}: not as it was written (its SHA-256 is another); the "
                "checkpoint is damaged, choose another one"
            )
    return checkpoint


def _is_intact(checkpoint: Checkpoint, name: str) -> bool:
    try:
        with (checkpoint.directory / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # the disk itself says that it cannot be read
        return False
    return digest == checkpoint.files[name].sha256
