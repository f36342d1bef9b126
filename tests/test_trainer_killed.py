"""Property: a run that is killed with SIGKILL a hundred times ends as if nobody had touched it.

The moments are random: while a run starts, resumes, computes, and above all while it saves.
Run: pytest tests/test_trainer_killed.py (five to ten minutes on two cores)
"""

import contextlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from trainer_runs import (
    RankServer,
    conversations,
    losses,
    read_log,
    read_status,
    train_args,
    write_dataset,
)

from pipeline.trainer.args import TrainArgs
from pipeline.trainer.output_dir import latest_checkpoint

pytestmark = pytest.mark.slow

_STEPS = 30
_LONGEST_WAIT = 120.0
"""Seconds without a save after which a run hangs."""
_KILLED = -9


@dataclass
class _Killer:
    """Starts runs, and ends them at a random moment."""

    server: RankServer
    num_ranks: int
    draw: random.Random = field(default_factory=lambda: random.Random(0))
    kills: int = 0
    kills_in_a_save: int = 0

    def run_until_it_ends(self, args: TrainArgs, most_kills: int) -> None:
        """Kill and resume, again and again; after `most_kills` of them let it live."""
        output_dir = Path(args.output_dir)
        while True:
            may_kill = self.kills < most_kills
            resumes = latest_checkpoint(output_dir) is not None
            changes = {
                "resume_from_checkpoint": "latest" if resumes else None,
                "save_steps": 1 if may_kill else _STEPS,
            }
            started = time.time()
            self.server.start(args.model_copy(update=changes), ranks=self.num_ranks)
            if may_kill:
                self._wait_for_a_moment(output_dir, started)
                ranks = self.server.ranks()
                self.draw.shuffle(ranks)
                for rank in ranks:
                    rank.kill()
            status, output = self.server.finish()
            if status == 0:
                return
            assert may_kill, output
            assert status == _KILLED, output
            self.kills += 1
            self.kills_in_a_save += bool(_saves_since(output_dir, started))

    def _wait_for_a_moment(self, output_dir: Path, started: float) -> None:
        """Until up to three saves have begun, and a little longer."""
        saves = self.draw.randrange(4)
        seen: set[Path] = set()
        while len(seen) < saves and not self.server.has_ended():
            seen |= _saves_since(output_dir, started)
            assert time.time() - started < _LONGEST_WAIT, "the run hangs"
            time.sleep(0.001)
        time.sleep(self.draw.uniform(0, 0.2 if saves else 1.0))


def _saves_since(output_dir: Path, moment: float) -> set[Path]:
    """Checkpoints that are being written."""
    found = set()
    for path in output_dir.glob(".checkpoint-*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ctime > moment:  # not left behind by an earlier kill
                found.add(path)
    return found


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), conversations(11))


@pytest.fixture(scope="module")
def server() -> Iterator[RankServer]:
    server = RankServer()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("num_ranks", "kills", "keys"),
    [
        (1, 50, {}),
        (1, 12, {"async_save": True}),
        (2, 32, {"fsdp": True}),
        (2, 6, {"async_save": True}),
    ],
    ids=["waiting", "beside", "two ranks FSDP2", "two ranks DDP beside"],
)
def test_kill_9_at_random_moments_changes_nothing(
    server: RankServer,
    tiny_model: Path,
    dataset_dir: Path,
    tmp_path: Path,
    num_ranks: int,
    kills: int,
    keys: dict[str, Any],
) -> None:
    common = {
        "max_steps": _STEPS,
        "per_device_train_batch_size": 2 // num_ranks,
        "overwrite_output_dir": True,
        "save_total_limit": 3,
        **keys,
    }
    whole = train_args(tiny_model, dataset_dir, tmp_path / "whole", **common)
    _Killer(server, num_ranks).run_until_it_ends(whole, most_kills=0)
    expected = losses(tmp_path / "whole")
    weights = (tmp_path / "whole" / "model.safetensors").read_bytes()
    killer = _Killer(server, num_ranks)
    while killer.kills < kills:
        output_dir = tmp_path / f"after-{killer.kills}-kills"
        args = train_args(tiny_model, dataset_dir, output_dir, **common)
        killer.run_until_it_ends(args, kills)
        assert losses(output_dir) == expected
        assert [line["current_steps"] for line in read_log(output_dir)] == [*range(1, _STEPS + 1)]
        assert (output_dir / "model.safetensors").read_bytes() == weights
        assert read_status(output_dir)["status"] == "completed"
        assert not list(output_dir.glob(".checkpoint-*"))
    assert killer.kills == kills
    assert killer.kills_in_a_save >= kills // 4
