"""Property: a checkpoint is complete or does not exist, whenever the process dies.

Run: pytest tests/test_trainer_checkpoint.py
"""

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import TrainError
from pipeline.trainer.checkpoint.background import BackgroundWriter
from pipeline.trainer.checkpoint.inline import InlineWriter
from pipeline.trainer.checkpoint.random_state import restore_random_state
from pipeline.trainer.checkpoint.saver import Saver, Writer
from pipeline.trainer.checkpoint.state_files import SavedState
from pipeline.trainer.checkpoint.verify import whole_checkpoint
from pipeline.trainer.checkpoint.writer import Publication
from pipeline.trainer.output_dir import (
    clear_partial_checkpoints,
    latest_checkpoint,
    read_checkpoint,
)
from pipeline.trainer.parallel.interface import Distributed
from pipeline.trainer.parallel.parts import Part

_ALONE = Distributed(use_cpu=True, timeout_seconds=1)
_STATE = "state/rank00000-00.safetensors"


def _nothing(point: str) -> None:
    pass


class _OneTensor:
    """A strategy with one weight; it calls `before` where it could die."""

    def __init__(self, before: Callable[[str], None]) -> None:
        self._before = before

    def state(self) -> list[Part]:
        self._before("state")
        return [Part("w", slot, (4,), 0, torch.arange(4.0)) for slot in ("weight", "exp_avg")]


@dataclass(frozen=True)
class _OneFile:
    """Model files of which there is one."""

    before: Callable[[str], None] = _nothing

    def write(self, directory: Path) -> None:
        self.before("model")
        (directory / "model.safetensors").write_bytes(b"weights")
        self.before("publish")


def _save(
    output_dir: Path,
    step: int | None,
    *,
    only_model: bool = False,
    limit: int | None = None,
    before: Callable[[str], None] = _nothing,
    writer: Writer | None = None,
) -> Path:
    writer = writer or InlineWriter()
    publication = Publication(
        output_dir,
        step,
        world_size=1,
        manifest=None if only_model else {},
        model_files=_OneFile(before),  # type: ignore[arg-type]  # what publishing needs of it
        save_total_limit=limit,
        best_first=[],
    )
    saver = Saver(_OneTensor(before), _ALONE, writer)  # type: ignore[arg-type]
    saver.save(publication, {"trainer_state.json": b"{}"})
    saver.settle(must_succeed=True)
    return publication.target


@pytest.mark.parametrize("point", ["state", "model", "publish", "rename"])
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
    clear_partial_checkpoints(tmp_path)  # as every run does before its first step
    assert read_checkpoint(_save(tmp_path, 2)).step == 2
    assert not list(tmp_path.glob(".*"))


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (8, 9, 10, 11):
        _save(tmp_path, step, limit=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-11"]


def test_a_checkpoint_of_the_model_alone_is_not_resumed_from(tmp_path: Path) -> None:
    directory = _save(tmp_path, 1, only_model=True)
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["model.safetensors", "trainer_state.json"]
    assert latest_checkpoint(tmp_path) is None


def test_the_final_model_replaces_files_and_leaves_checkpoints(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    (tmp_path / "model.safetensors").write_bytes(b"of an earlier run")
    assert _save(tmp_path, None, only_model=True) == tmp_path
    assert (tmp_path / "model.safetensors").read_bytes() == b"weights"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("checkpoint-1", "model.safetensors", "trainer_state.json")
    ]


def test_codes_of_moments_are_not_taken_for_moments(tmp_path: Path) -> None:
    with SavedState(_save(tmp_path, 1)) as saved:
        moments = Part("w", "exp_avg", (4,), 0, torch.zeros(4))
        saved.fill([moments])
        assert moments.data.tolist() == [0, 1, 2, 3]
        codes = Part("w", "exp_avg", (4,), 0, torch.zeros(4, dtype=torch.uint8))
        with pytest.raises(
            TrainError, match=r"exp_avg/w is torch.float32, but this run's is torch"
        ):
            saved.fill([codes])


def test_the_log_says_how_long_training_waited(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    _save(tmp_path, 1, before=lambda _: time.sleep(0.1))  # state, model, publish
    (message,) = (m for m in caplog.messages if m.startswith("saved"))
    assert float(message.split()[-2]) >= 0.3


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(()).item()

    directory = _save(tmp_path, 1)
    expected = draw()
    draw()
    restore_random_state(directory, rank=0)
    assert draw() == expected


def test_one_wrong_byte_in_any_file_is_found_and_the_checkpoint_before_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = _save(tmp_path, 1), _save(tmp_path, 2)
    whole = whole_checkpoint(tmp_path, "latest", _ALONE)
    assert whole is not None
    assert whole.directory == newer
    assert sorted(whole.files) == sorted(
        ["model.safetensors", "rng_state_0.pth", _STATE, "trainer_state.json"]
    )
    for name in whole.files:
        content = (newer / name).read_bytes()
        (newer / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        caplog.clear()
        found = whole_checkpoint(tmp_path, "latest", _ALONE)
        assert found is not None
        assert found.directory == older
        assert caplog.messages == [
            f"passed over: {newer / name}: not as it was written (its SHA-256 is another); the "
            "checkpoint is damaged, choose another one"
        ]
        with pytest.raises(TrainError, match=f"{name}: not as it was written"):
            whole_checkpoint(tmp_path, str(newer), _ALONE)
        (newer / name).write_bytes(content)
    for directory in (older, newer):
        (directory / "model.safetensors").write_bytes(b"weighty")
    with pytest.raises(TrainError, match="holds no checkpoint that is whole; name one of another"):
        whole_checkpoint(tmp_path, "latest", _ALONE)


@pytest.fixture(params=["inline", "in the background"])
def writer(request: pytest.FixtureRequest) -> Writer:
    return InlineWriter() if request.param == "inline" else BackgroundWriter(ranks_per_node=1)


def _full_disk(output_dir: Path, step: int) -> None:
    state = output_dir / f".checkpoint-{step}.partial" / _STATE
    state.parent.mkdir(parents=True)
    state.symlink_to("/dev/full")


def test_a_full_disk_is_survived_once(
    tmp_path: Path, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    def start(step: int) -> None:
        publication = Publication(tmp_path, step, 1, {}, _OneFile(), 1, [])  # type: ignore[arg-type]
        saver.save(publication, {})

    saver = Saver(_OneTensor(_nothing), _ALONE, writer)  # type: ignore[arg-type]
    for step in (2, 4, 5):
        _full_disk(tmp_path, step)
    start(1)
    start(2)
    saver.settle()
    what = f"{tmp_path / 'checkpoint-2'}: not saved: [Errno 28] No space left on device"
    assert [m for m in caplog.messages if "not saved" in m] == [
        f"{what}: '{tmp_path / '.checkpoint-2.partial' / _STATE}'; the checkpoint before it is "
        "intact. Training goes on"
    ]
    assert not (tmp_path / ".checkpoint-2.partial").exists()
    start(3)
    start(4)
    start(5)
    with pytest.raises(TrainError, match=r"checkpoint-5: not saved: .*; the run ends, because a"):
        saver.settle()
    saver.close()
    assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint-3"]
    assert whole_checkpoint(tmp_path, "latest", _ALONE) is not None
