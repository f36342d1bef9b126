"""Property: a step that does not end is reported once, with the place where its rank waits.

Run: pytest tests/test_trainer_stall.py
"""

import os
import signal
import time
from pathlib import Path

import pytest
from trainer_runs import conversations, start, train_args, write_dataset

from pipeline.trainer.stall import StallWatch


def _a_place_to_wait(seconds: float) -> None:
    time.sleep(seconds)


def test_a_stalled_step_is_reported_once_and_others_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = StallWatch(3, 0.2)
    for step, seconds in ((1, 0.0), (2, 0.7), (3, 0.0), (4, 0.5)):
        watch.begin(step)
        _a_place_to_wait(seconds)
        watch.end()
    reports = [record.getMessage() for record in caplog.records]
    assert [report[:37] for report in reports] == [
        "rank 3: step 2 has not ended for 0 se",
        "rank 3: step 4 has not ended for 0 se",
    ]
    assert all("_a_place_to_wait" in report for report in reports)


def test_between_steps_and_with_zero_nothing_is_watched(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch, off = StallWatch(0, 0.1), StallWatch(0, 0)
    watch.begin(1)
    watch.end()
    off.begin(1)
    time.sleep(0.3)
    assert not caplog.records


@pytest.mark.slow
def test_a_rank_tells_that_it_waits_for_another(tiny_model: Path, tmp_path: Path) -> None:
    """Rank 1 is stopped for a while; rank 0 waits for it in a collective."""
    dataset_dir = write_dataset(tmp_path / "data", conversations(23))
    args = train_args(tiny_model, dataset_dir, tmp_path / "run", max_steps=400, stall_seconds=2)
    process = start(args, ranks=2)
    log = tmp_path / "run" / "trainer_log.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) > 3):
        time.sleep(0.1)
        assert process.poll() is None
    rank_1 = _child_with_rank(process.pid, "1")
    os.kill(rank_1, signal.SIGSTOP)
    time.sleep(6)
    os.kill(rank_1, signal.SIGCONT)
    os.killpg(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert "rank 0: step " in output, output
    assert "has not ended for 2 seconds" in output
    assert "in _one_step" in output


def _child_with_rank(parent: int, rank: str) -> int:
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in environment:
            return int(child)
    raise AssertionError("no such rank")
