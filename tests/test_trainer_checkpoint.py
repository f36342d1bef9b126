"""Property: a checkpoint is complete or does not exist, whenever the process dies.

Run: pytest tests/test_trainer_checkpoint.py
"""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.trainer.checkpoint import restore_random_state, save_checkpoint
from pipeline.trainer.output_dir import latest_checkpoint, read_checkpoint
from pipeline.trainer.parallel.interface import Distributed


class _FilesOnly:
    """A strategy that writes files, and calls `before` at every point where it could die."""

    name = "files only"

    def __init__(self, before: Callable[[str], None]) -> None:
        self._before = before

    def save_weights(self, directory: Path) -> None:
        (directory / "model.safetensors").write_bytes(b"weights")
        self._before("state")

    def save_state(self, directory: Path) -> None:
        (directory / "optimizer.pt").write_bytes(b"state")
        self._before("random state")


def _save(
    output_dir: Path,
    step: int,
    *,
    only_model: bool = False,
    limit: int | None = None,
    before: Callable[[str], None] = lambda point: None,
) -> Path:
    return save_checkpoint(
        output_dir,
        step,
        _FilesOnly(before),  # type: ignore[arg-type]  # the part of it that saving needs
        Distributed(use_cpu=True, timeout_seconds=1),
        manifest={},
        only_model=only_model,
        save_total_limit=limit,
        write_extras=lambda directory: before("manifest"),
    )


@pytest.mark.parametrize("point", ["state", "random state", "manifest", "rename"])
def test_kill_9_during_a_save_leaves_the_one_before_as_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    _save(tmp_path, 1)

    def die_at(reached: str) -> None:
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(Path, "rename", lambda *_: die_at("rename"))
        _save(tmp_path, 2, before=die_at)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    latest = latest_checkpoint(tmp_path)
    assert latest is not None
    assert latest.step == 1
    assert read_checkpoint(_save(tmp_path, 2)).step == 2
    assert not list(tmp_path.glob(".*"))


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (8, 9, 10, 11):
        _save(tmp_path, step, limit=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-11"]


def test_a_checkpoint_of_the_model_alone_is_not_resumed_from(tmp_path: Path) -> None:
    directory = _save(tmp_path, 1, only_model=True)
    assert [path.name for path in directory.iterdir()] == ["model.safetensors"]
    assert latest_checkpoint(tmp_path) is None


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(()).item()

    checkpoint = read_checkpoint(_save(tmp_path, 1))
    expected = draw()
    draw()
    restore_random_state(checkpoint, Distributed(use_cpu=True, timeout_seconds=1))
    assert draw() == expected
