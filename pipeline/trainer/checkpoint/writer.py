"""Writing one checkpoint: each rank its own files, then one of them the rest, and the rename.

    .checkpoint-<step>.partial/     state/*.safetensors  rng_state_<rank>.pth  receipt-<rank>.json
        |                           by each rank; its receipt says that its files are whole
        v
    checkpoint-<step>/              and model and tokenizer files, trainer_state.json, and
                                    checkpoint.json with the SHA-256 of all these files

The same functions run in the rank or in a process beside it. Importing this loads no torch: a
process that only writes bytes is there at once.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files import sync_directory, sync_file, write_json
from pipeline.trainer.output_dir import (
    MANIFEST,
    STATE_DIR,
    STATE_FILE,
    FileRecord,
    checkpoint_directories,
    checkpoint_directory,
    read_records,
)

if TYPE_CHECKING:
    from pipeline.trainer.checkpoint.model_files import ModelFiles

logger = logging.getLogger(__name__)

_THREADS = 4
_CHUNK_BYTES = 16 << 20
_RECEIPT = "receipt-{:05d}.json"
_NO_MODEL = (STATE_DIR, MANIFEST, STATE_FILE, "rng_state_*.pth")
"""What a checkpoint holds beside the files of a model."""


@dataclass(frozen=True)
class Contents:
    """A file that a rank writes: `header`, then `data`."""

    name: str
    header: bytes
    data: memoryview


@dataclass(frozen=True)
class Publication:
    """What turns the files of all ranks into a checkpoint, or into the final model."""

    output_dir: Path
    step: int | None
    """None: the final model, which lies in `output_dir` itself."""
    world_size: int
    manifest: dict[str, Any] | None
    """None: the model alone, which cannot be resumed."""
    model_files: "ModelFiles"
    save_total_limit: int | None
    best_first: list[int]
    """Steps that were evaluated, if the best checkpoint is to be kept."""

    @property
    def partial(self) -> Path:
        """Where it lies until it is complete."""
        name = "final" if self.step is None else self.step
        return self.output_dir / f".checkpoint-{name}.partial"

    @property
    def target(self) -> Path:
        if self.step is None:
            return self.output_dir
        return checkpoint_directory(self.output_dir, self.step)

    def __call__(self) -> None:
        """Raises: OSError: a file cannot be written; what was there before is as it was."""
        partial = self.partial
        self.model_files.write(partial)
        receipts = [partial / _RECEIPT.format(rank) for rank in range(self.world_size)]
        records: dict[str, FileRecord] = {}
        for receipt in receipts:
            records.update(read_records(receipt))
            receipt.unlink()
        if self.manifest is None:
            shutil.rmtree(partial / STATE_DIR)
        written = {str(path.relative_to(partial)) for path in partial.rglob("*") if path.is_file()}
        rest = sorted(written - records.keys())
        with ThreadPoolExecutor(_THREADS) as pool:
            hashed = pool.map(_record, (partial / name for name in rest))
            records.update(zip(rest, hashed, strict=True))
        if self.step is None:
            _move_files(partial, self.target)
            return
        if self.manifest is not None:
            files = {name: vars(records[name]) for name in sorted(records)}
            manifest = {**self.manifest, "step": self.step, "files": files}
            write_json(partial / MANIFEST, manifest)
        shutil.rmtree(self.target, ignore_errors=True)
        partial.rename(self.target)
        sync_directory(self.output_dir)
        self._rotate()

    def best_checkpoint(self) -> Path | None:
        """Of those that are there."""
        directories = (checkpoint_directory(self.output_dir, step) for step in self.best_first)
        return next((directory for directory in directories if directory.is_dir()), None)

    def copy_model(self, checkpoint: Path) -> None:
        """Let the final model be that of a checkpoint. Raises: OSError."""
        shutil.rmtree(self.partial, ignore_errors=True)
        shutil.copytree(checkpoint, self.partial, ignore=shutil.ignore_patterns(*_NO_MODEL))
        for path in self.partial.rglob("*"):
            if path.is_file():
                sync_file(path)
        _move_files(self.partial, self.target)

    def _rotate(self) -> None:
        """Keep the newest and the best; called only after this one is complete."""
        if self.save_total_limit is None:
            return
        directories = checkpoint_directories(self.output_dir)
        kept = {directories[-1], self.best_checkpoint()}
        removable = [directory for directory in directories if directory not in kept]
        surplus = max(len(directories) - self.save_total_limit, 0)
        for directory in removable[:surplus]:
            logger.info("removing %s (save_total_limit %d)", directory, self.save_total_limit)
            shutil.rmtree(directory)


def write_file(partial: Path, contents: Contents) -> FileRecord:
    """Write, hash and flush one file to the disk.

    Raises: OSError: the disk is full, or another reason; it names the file.
    """
    path = partial / contents.name
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(contents.header)
    size = len(contents.data)
    try:
        with path.open("wb") as file:
            file.write(contents.header)
            for start in range(0, size, _CHUNK_BYTES):
                chunk = contents.data[start : start + _CHUNK_BYTES]
                digest.update(chunk)  # while it is in the cache of the core
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    return FileRecord(len(contents.header) + size, digest.hexdigest())


def write_receipt(partial: Path, rank: int, records: Mapping[str, FileRecord]) -> None:
    """Say that all files of a rank are there. Raises: OSError."""
    receipt = {name: vars(record) for name, record in records.items()}
    write_json(partial / _RECEIPT.format(rank), receipt)


@dataclass(frozen=True)
class WriteJob:
    """The files of one rank, whose data lie in memory that is shared with it."""

    partial: Path
    rank: int
    files: list[tuple[str, bytes, int, int]]
    """Name, header, and where the data begin and end in the memory."""
    extras: dict[str, bytes]

    def __call__(self, memory: memoryview) -> None:
        """Raises: OSError: see `write_file`."""
        contents = [Contents(name, data, memory[:0]) for name, data in self.extras.items()]
        for name, header, start, stop in self.files:
            contents.append(Contents(name, header, memory[start:stop]))
        with ThreadPoolExecutor(_THREADS) as pool:
            records = list(pool.map(lambda each: write_file(self.partial, each), contents))
        names = (each.name for each in contents)
        write_receipt(self.partial, self.rank, dict(zip(names, records, strict=True)))


def _record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(path.stat().st_size, digest)


def _move_files(source: Path, target: Path) -> None:
    for path in source.iterdir():
        replaced = target / path.name
        if replaced.is_dir():
            shutil.rmtree(replaced)
        path.replace(replaced)
    source.rmdir()
    sync_directory(target)
