"""Property: the log of a run has LLaMA-Factory's fields and every step once, resumed or not.

Run: pytest tests/test_trainer_metrics.py
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainer_runs import CROSSOVER, losses, read_log, train_args
from transformers import TrainerState

from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.plan import Plan
from pipeline.trainer.data.plan_input import Documents
from pipeline.trainer.evaluation.evaluate import Evaluation
from pipeline.trainer.metrics import RunLog
from pipeline.trainer.output_dir import STATE_FILE
from pipeline.trainer.reporting.rank_clock import RankReport
from pipeline.trainer.reporting.step_window import StepWindow
from pipeline.trainer.reporting.time_plan import TimePlan


def _args(output_dir: Path, **changes: Any) -> TrainArgs:
    output_dir.mkdir(exist_ok=True)
    return train_args(Path("model"), Path("data"), output_dir, **{"max_steps": 10, **changes})


def _open(args: TrainArgs, earlier: dict[str, Any] | None = None) -> RunLog:
    documents = Documents.from_lengths(np.full(16, 10))
    plan = Plan.of(args, documents, 1, CROSSOVER)
    window = StepWindow(plan, num_devices=2, useful_flops=lambda _: 6e12, peak_flops=1e15)
    time_plan = TimePlan(np.full(10, 6e12), num_devices=2, peak_flops=1e15)
    return RunLog(args, plan, window, time_plan, earlier or {})


def _record(log: RunLog, first: int, last: int) -> None:
    for step in range(first, last + 1):
        reports = [RankReport(0.1, 0.01, 5e9), RankReport(0.2, 0.02, 6e9)] if step > 1 else []
        log.record(
            step,
            loss=1 / step,
            grad_norm=2.0,
            lr=0.1 * step,
            tokens=100,
            seconds=0.4,
            reports=reports,
        )


def test_lines_have_the_fields_that_readers_of_llamafactory_expect(tmp_path: Path) -> None:
    log = _open(_args(tmp_path))
    _record(log, 1, 2)
    line = read_log(tmp_path)[1]
    assert list(line) == [
        *("current_steps", "total_steps", "epoch", "percentage", "elapsed_time", "remaining_time"),
        *("loss", "lr", "grad_norm", "throughput", "total_tokens", "tokens_per_second"),
        *("timestamp", "tokens_per_second_per_device", "padding", "balance"),
        *("step_seconds_p50", "step_seconds_p95", "step_seconds_max", "peak_memory_bytes"),
        *("data_wait", "slowest_rank", "slowest_rank_lag_seconds", "useful_mfu"),
    ]
    expected = {"current_steps": 2, "total_steps": 10, "epoch": 0.5, "percentage": 20.0}
    expected |= {"loss": 0.5, "lr": 0.2, "grad_norm": 2.0, "total_tokens": 200}
    assert line.items() >= expected.items()
    assert line["tokens_per_second"] > 0


def test_a_line_is_the_mean_since_the_last_one(tmp_path: Path) -> None:
    log = _open(_args(tmp_path, logging_steps=4))
    _record(log, 1, 10)
    lines = read_log(tmp_path)
    assert [line["current_steps"] for line in lines] == [4, 8, 10]
    assert lines[0]["loss"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert lines[2]["loss"] == pytest.approx((1 / 9 + 1 / 10) / 2)


@pytest.mark.parametrize("logging_steps", [1, 4])
def test_a_resumed_log_equals_that_of_an_uninterrupted_run(
    tmp_path: Path, logging_steps: int
) -> None:
    whole = _args(tmp_path / "whole", logging_steps=logging_steps)
    log = _open(whole)
    _record(log, 1, 10)
    expected = log.finish({}, 10)
    cut = _args(tmp_path / "cut", logging_steps=logging_steps)
    log = _open(cut)
    _record(log, 1, 6)
    progress = json.loads(json.dumps(log.progress()))  # as the checkpoint keeps it
    _record(log, 7, 9)
    with (tmp_path / "cut" / "trainer_log.jsonl").open("a") as file:
        file.write('{"current_steps": 10, "lo')  # killed in the middle of a line
    log = _open(cut, progress)
    _record(log, 7, 10)
    results = log.finish({}, 10)

    def curve(output_dir: Path) -> list[Any]:
        lines = read_log(output_dir)
        return [(line["current_steps"], line["loss"], line["total_tokens"]) for line in lines]

    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    assert results["train_loss"] == pytest.approx(expected["train_loss"])
    assert results["num_input_tokens_seen"] == expected["num_input_tokens_seen"] == 1000


def test_finishing_writes_the_results_that_llamafactory_writes(tmp_path: Path) -> None:
    log = _open(_args(tmp_path))
    _record(log, 1, 10)
    results = log.finish({"total_flos": 1.0}, 10)
    fields = {"epoch", "num_input_tokens_seen", "total_flos", "train_loss", "train_runtime"}
    fields |= {
        "num_anomalies",
        "num_steps_skipped",
        "train_samples_per_second",
        "train_steps_per_second",
        "effective_tokens_per_sec",
        "time_plan",
    }
    assert results.keys() == fields
    assert results["train_loss"] == pytest.approx(sum(1 / k for k in range(1, 11)) / 10)
    for name in ("train_results.json", "all_results.json"):
        assert json.loads((tmp_path / name).read_bytes()) == results
    closing = json.loads((tmp_path / "trainer_log.jsonl").read_text("utf-8").splitlines()[-1])
    assert closing["percentage"] == 100.0
    assert "loss" not in closing
    assert len(losses(tmp_path)) == 10


def test_trainer_state_loads_with_transformers(tmp_path: Path) -> None:
    log = _open(_args(tmp_path))
    _record(log, 1, 3)
    (tmp_path / STATE_FILE).write_bytes(log.state())
    state = TrainerState.load_from_json(str(tmp_path / STATE_FILE))
    assert (state.global_step, state.max_steps, state.epoch) == (3, 10, 0.75)
    assert state.num_input_tokens_seen == 300
    assert [entry["step"] for entry in state.log_history] == [1, 2, 3]
    assert math.isclose(state.log_history[1]["learning_rate"], 0.2)


def test_an_evaluation_has_a_line_and_a_place_of_its_own(
    tmp_path: Path,
) -> None:
    log = _open(_args(tmp_path))
    _record(log, 1, 2)
    log.record_evaluation(2, Evaluation(0.25, {}, num_examples=8, seconds=2.0))
    line = json.loads((tmp_path / "trainer_log.jsonl").read_text().splitlines()[-1])
    assert (line["current_steps"], line["eval_loss"]) == (2, 0.25)
    entry = log.progress()["log_history"][-1]
    assert entry == {
        "epoch": 0.5,
        "eval_loss": 0.25,
        "eval_runtime": 2.0,
        "eval_samples_per_second": 4.0,
        "step": 2,
    }
    assert log.losses() == [(1, 1.0), (2, 0.5)]
