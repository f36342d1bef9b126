"""Property: every log line reaches every tracker, in order, and no step waits for it.

Run: pytest tests/test_trainer_trackers.py
"""

import json
import threading
from pathlib import Path

import pytest
from trainer_runs import conversations, read_log, run, train_args, write_dataset

from pipeline.errors import TrainError
from pipeline.trainer.reporting import trackers
from pipeline.trainer.reporting.delivery import Delivery
from pipeline.trainer.reporting.trackers import check_installed

_FAKE = """
import json, os
from pathlib import Path

def told(what, **given):
    with Path(os.environ["FAKE_TRACKERS"]).open("a") as file:
        file.write(json.dumps([__name__, what, given]) + chr(10))
"""
_FAKE_WANDB = """
class Run:
    def log(self, numbers, step): told("log", step=step, numbers=numbers)
    def finish(self): told("close")

def init(**given):
    told("init", **given)
    return Run()
"""
_FAKE_TRACKIO = """
def init(**given): told("init", **given)
def log(numbers, step): told("log", step=step, numbers=numbers)
def finish(): told("close")
"""


class _Tracker:
    """Refuses as often as asked, then keeps what it gets."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.steps: list[int] = []
        self.closed = False

    def log(self, step: int, numbers: dict[str, float]) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("no route to the tracker")
        self.steps.append(step)

    def close(self) -> None:
        self.closed = True


def _delivery(tracker: _Tracker, backlog: Path) -> Delivery:
    return Delivery("here", lambda: tracker, backlog, first_pause_seconds=0.001)


def test_lines_arrive_in_order_though_the_tracker_fails_now_and_then(tmp_path: Path) -> None:
    tracker = _Tracker(failures=5)
    delivery = _delivery(tracker, tmp_path / "left.jsonl")
    for step in range(20):
        delivery.put(step, {"train/loss": 1.0})
    delivery.close()
    assert tracker.steps == list(range(20))
    assert tracker.closed
    assert not (tmp_path / "left.jsonl").exists()


def test_what_an_outage_keeps_back_goes_out_when_the_run_is_resumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backlog = tmp_path / "left.jsonl"
    delivery = _delivery(_Tracker(failures=10**9), backlog)
    for step in (1, 2):
        delivery.put(step, {"train/loss": 1.0 / step})
    delivery.close(patience_seconds=0.05)
    assert "no route to the tracker; training goes on, retrying" in caplog.text
    assert f"did not take 2 log lines; they are in {backlog}" in caplog.text
    assert json.loads(backlog.read_text().splitlines()[1])["numbers"] == {"train/loss": 0.5}

    tracker = _Tracker()
    resumed = _delivery(tracker, backlog)
    resumed.put(3, {"train/loss": 0.3})
    resumed.close()
    assert tracker.steps == [1, 2, 3]
    assert not backlog.exists()


def test_a_tracker_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    release = threading.Event()

    class Hanging(_Tracker):
        def log(self, step: int, numbers: dict[str, float]) -> None:
            release.wait(10)

    delivery = _delivery(Hanging(), tmp_path / "left.jsonl")
    for step in range(3):
        delivery.put(step, {})  # returns, or the test would take 30 s
    delivery.close(patience_seconds=0.01)
    assert len((tmp_path / "left.jsonl").read_text().splitlines()) == 3
    release.set()


def test_a_tracker_that_is_not_installed_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trackers, "is_installed", lambda name: name != "mlflow")
    with pytest.raises(TrainError, match=r"mlflow is not installed; pip install 'sft-pipeline\["):
        check_installed(["wandb", "mlflow"])
    check_installed(["wandb", "none"])


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("fakes")
    for name, source in (("wandb", _FAKE_WANDB), ("trackio", _FAKE_TRACKIO)):
        (directory / f"{name}.py").write_text(_FAKE + source)
    return directory


def test_a_run_reports_every_number_of_every_line(
    tmp_path: Path, tiny_model: Path, fakes: Path
) -> None:
    data = write_dataset(tmp_path / "data", conversations(8))
    args = train_args(
        tiny_model, data, tmp_path / "out", max_steps=3, report_to=["wandb", "trackio"], val_size=2
    )
    calls = tmp_path / "calls.jsonl"
    run(args, PYTHONPATH=str(fakes), FAKE_TRACKERS=str(calls), WANDB_RUN_ID="run-7")
    told = [json.loads(line) for line in calls.read_text().splitlines()]
    for name in ("wandb", "trackio"):
        of_this = [(what, given) for tracker, what, given in told if tracker == name]
        assert [what for what, _ in of_this] == ["init", "log", "log", "log", "log", "close"]
        assert of_this[0][1]["config"]["learning_rate"] == 3e-3
        logged = [given for _, given in of_this[1:4]]
        losses = [line["loss"] for line in read_log(Path(args.output_dir))]
        assert [given["step"] for given in logged] == [1, 2, 3]
        assert [given["numbers"]["train/loss"] for given in logged] == losses
        assert "eval/loss" in of_this[4][1]["numbers"]
    status = json.loads((tmp_path / "out" / "trainer_status.json").read_bytes())
    assert status["wandb_run_id"] == "run-7"


def test_tensorboard_gets_event_files_beside_the_model(tmp_path: Path, tiny_model: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    data = write_dataset(tmp_path / "data", conversations(8))
    args = train_args(tiny_model, data, tmp_path / "out", max_steps=3, report_to="tensorboard")
    run(args)
    events = accumulator.EventAccumulator(str(tmp_path / "out" / "runs"))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("train/loss")]
    expected = [(line["current_steps"], line["loss"]) for line in read_log(tmp_path / "out")]
    assert shown == [(step, pytest.approx(loss)) for step, loss in expected]
