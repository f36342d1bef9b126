"""What lies in an output directory, and what may be done with it. Imports no torch.

<output_dir>/
    checkpoint-<step>/          complete only when it holds checkpoint.json, which names the size
                                and the SHA-256 of its files
    trainer_log.jsonl trainer_state.json train_results.json all_results.json
    training_loss.png config.json model.safetensors tokenizer.json ...
    trainer_status.json         running | completed | interrupted | failed, with the step
"""

import json
import re
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.errors import TrainError

MANIFEST = "checkpoint.json"
STATUS_FILE = "trainer_status.json"
STATE_FILE = "trainer_state.json"
"""Of the output directory and of every checkpoint: Transformers' TrainerState."""
STATE_DIR = "state"
"""Of a checkpoint: weights and optimizer, to be continued from."""
SAMPLES_FILE = "eval_samples.jsonl"
REFERENCE_FILE = "reference.npy"
"""Of stage dpo, there before the first step."""
LATEST = "latest"
RECORD = "record"
"""Directory for the record of a run that is not archived; it is there before the training."""
OUTPUT_FILE = "output.yaml"
"""Results that could not be written into config.yaml, even of a run that never trained."""
_SIGNS_OF_A_RUN = (STATUS_FILE, "trainer_log.jsonl", REFERENCE_FILE)
"""The second is also LLaMA-Factory's."""
_NO_RUN = frozenset({RECORD, OUTPUT_FILE})
"""What may lie in the output directory of a run that is still to come."""
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_PARTIAL = ".checkpoint-*.partial"
_OURS = (
    "checkpoint-*",
    "trainer_*",
    "train_results.json",
    "all_results.json",
    "eval_results.json",
    SAMPLES_FILE,
    REFERENCE_FILE,
    "training_*.png",
    "undelivered_*.jsonl",
    "runs",
    "*.safetensors",
    "*.safetensors.index.json",
    "adapter_config.json",
    "merged_adapters.json",
    "pissa_converted",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "additional_chat_templates",
    OUTPUT_FILE,
)


@dataclass(frozen=True)
class FileRecord:
    """What a file of a checkpoint is like when it is whole."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    directory: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        return self.manifest["step"]

    @cached_property
    def files(self) -> dict[str, FileRecord]:
        return {name: FileRecord(**record) for name, record in self.manifest["files"].items()}


@dataclass(frozen=True)
class TrainerStatus:
    """What a training says about itself in trainer_status.json, and which writing of it that is."""

    content: dict[str, Any]
    version: tuple[int, int] | None

    @classmethod
    def read(cls, output_dir: Path) -> "TrainerStatus":
        file = output_dir / STATUS_FILE
        try:
            status = file.stat()
            return cls(json.loads(file.read_bytes()), (status.st_ino, status.st_mtime_ns))
        except (OSError, ValueError):
            return cls({}, None)

    def since(self, earlier: "TrainerStatus") -> dict[str, Any]:
        """The content, unless it was there before: then it is another run's, and this one said
        nothing."""
        return {} if self.version == earlier.version else self.content


def read_checkpoint(directory: Path) -> Checkpoint:
    """Raises: TrainError: not a checkpoint, not complete, or a file of it has changed its size."""
    if not directory.is_dir():
        raise TrainError(f"{directory}: no such checkpoint directory")
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise TrainError(
            f"{directory}: no complete checkpoint with optimizer state ({MANIFEST} is missing); "
            "its save was cut short, it was made with save_only_model, or by another program"
        ) from None
    except ValueError as error:
        raise TrainError(f"{directory / MANIFEST}: not JSON: {error}") from error
    checkpoint = Checkpoint(directory, manifest)
    try:
        _ = checkpoint.step, checkpoint.files
    except (KeyError, TypeError, AttributeError):
        raise TrainError(
            f"{directory / MANIFEST}: not a manifest of ours, or of an earlier version; choose "
            "another checkpoint"
        ) from None
    for name, record in checkpoint.files.items():
        file = directory / name
        if not file.is_file() or file.stat().st_size != record.size:
            raise TrainError(
                f"{file}: missing or not {record.size} bytes long; the checkpoint is damaged"
            )
    return checkpoint


def read_records(file: Path) -> dict[str, FileRecord]:
    """The files that a rank has written into a checkpoint, by name."""
    return {name: FileRecord(**record) for name, record in json.loads(file.read_bytes()).items()}


def checkpoint_directories(output_dir: Path) -> list[Path]:
    """`checkpoint-<step>` directories, complete or not, by rising step."""
    found = [
        (int(match.group(1)), path)
        for path in output_dir.glob("checkpoint-*")
        if path.is_dir() and (match := _CHECKPOINT.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found)]


def checkpoint_directory(output_dir: Path, step: int) -> Path:
    return output_dir / f"checkpoint-{step}"


def step_of(checkpoint: Path) -> int:
    """Undo `checkpoint_directory`."""
    return int(checkpoint.name.rpartition("-")[2])


def latest_checkpoint(output_dir: Path) -> Checkpoint | None:
    """The complete checkpoint of the highest step; damaged ones are passed over."""
    for directory in reversed(checkpoint_directories(output_dir)):
        try:
            return read_checkpoint(directory)
        except TrainError:
            continue
    return None


def find_resume(output_dir: Path, resume_from_checkpoint: str | None) -> Checkpoint | None:
    """The checkpoint that the run continues from, or None for a fresh start.

    Raises: TrainError: there is no complete checkpoint where one was asked for.
    """
    if not resume_from_checkpoint:
        return None
    if resume_from_checkpoint != LATEST:
        return read_checkpoint(Path(resume_from_checkpoint))
    checkpoint = latest_checkpoint(output_dir)
    if checkpoint is None:
        raise TrainError(
            f"resume_from_checkpoint: {output_dir} holds no complete checkpoint; "
            "remove training.resume_from_checkpoint to start from the beginning"
        )
    return checkpoint


def check_output_dir(output_dir: Path, *, overwrite: bool, resuming: bool) -> None:
    """Raises: TrainError: the directory holds something that a fresh run would mix with."""
    if resuming or not output_dir.exists():
        return
    if not output_dir.is_dir():
        raise TrainError(f"{output_dir}: output_dir is a file; choose another output_dir")
    if {path.name for path in output_dir.iterdir()} <= _NO_RUN:
        return
    if not overwrite:
        raise TrainError(
            f"{output_dir}: holds an earlier run; continue it with "
            f"training.resume_from_checkpoint=latest, choose another training.output_dir, or set "
            f"training.overwrite_output_dir=true"
        )
    if not any((output_dir / name).is_file() for name in _SIGNS_OF_A_RUN):
        raise TrainError(
            f"{output_dir}: not overwritten, because it does not look like an earlier run "
            f"(none of {', '.join(_SIGNS_OF_A_RUN)} is there); choose another training.output_dir"
        )


def clear_partial_checkpoints(output_dir: Path) -> None:
    """Remove checkpoints whose save was cut short; they hold disk space and are never read."""
    for path in output_dir.glob(_PARTIAL):
        shutil.rmtree(path)


def clear_output_dir(output_dir: Path) -> None:
    """Remove what an earlier run wrote; anything else stays."""
    for pattern in _OURS:
        for path in output_dir.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
