"""Property: the time of a run is planned by what steps compute, and corrected by what they take.

Run: pytest tests/test_trainer_time_plan.py
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainer_runs import conversations, tokenise, train_args, write_dataset

from pipeline.trainer.planned_run import PlannedRun
from pipeline.trainer.reporting.time_plan import ASSUMED_MFU, TimeCheck, TimePlan

_UNEQUAL = np.array([8.0, 2.0, 1.0, 1.0, 2.0, 20.0, 30.0]) * 1e12


def test_what_is_left_is_counted_by_compute_not_by_steps() -> None:
    plan = TimePlan(_UNEQUAL, num_devices=2, peak_flops=None)
    assert plan.seconds_left(first=0, step=4, elapsed=6.0) == pytest.approx(6.0 * 52 / 12)
    assert plan.seconds_left(first=3, step=5, elapsed=6.0) == pytest.approx(6.0 * 50 / 3)
    assert plan.seconds_left(first=3, step=3, elapsed=1.0) == 0, "nothing is measured yet"
    assert plan.seconds_left(first=0, step=7, elapsed=9.0) == 0


def test_the_assumed_rate_is_named_and_the_measured_one_replaces_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan = TimePlan(_UNEQUAL, num_devices=2, peak_flops=1e12)
    assert plan.predicted_seconds == pytest.approx(64 / (2 * ASSUMED_MFU))
    assert plan.describe().endswith(
        "about 0:01:20 on 2 devices if their useful MFU is 40 %, which is assumed"
    )
    check = TimeCheck(plan, first_step=0)
    with caplog.at_level("INFO"):
        for step, seconds in enumerate([100.0, 4.0, 2.0, 2.0, 4.0, 40.0, 60.0], 1):
            check.add(step, seconds)
    # 6 TFLOP in 12 s; the first step, which compiles, does not count.
    assert caplog.messages == [
        "time after 5 steps: 0.25 TFLOP/s per device, a useful MFU of 25.0 % where 40 % was "
        "assumed; the other 2 steps take about 0:01:40"
    ]
    record = check.to_record()
    assert record["measured_flops_per_second"] == pytest.approx(0.5e12)
    assert record["projected_seconds"] == pytest.approx(128)


def test_a_resumed_run_measures_the_steps_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    check = TimeCheck(TimePlan(_UNEQUAL, num_devices=1, peak_flops=None), first_step=5)
    with caplog.at_level("INFO"):
        check.add(6, 50.0)
        assert check.to_record()["projected_seconds"] is None
        check.add(7, 15.0)
    assert caplog.messages == [
        "time after 2 steps: 2 TFLOP/s per device; the other 0 steps take about 0:00:00"
    ]


@pytest.mark.parametrize(
    ("keys", "has_peak"),
    [({"bf16": True}, True), ({}, False), ({"finetuning_type": "lora"}, False)],
)
def test_every_step_is_planned_with_the_flops_of_its_documents(
    tiny_model: Path, tmp_path: Path, keys: dict[str, Any], has_peak: bool
) -> None:
    dataset_dir = write_dataset(tmp_path / "data", conversations(11))
    args = train_args(tiny_model, dataset_dir, tmp_path / "run", max_steps=7, **keys)
    run = PlannedRun.of(args, tokenise(args).store, 1)
    plan = TimePlan.of(run, 1, 1e15)
    assert (plan.peak_flops is not None) == has_peak
    assert len(plan.step_flops) == run.plan.total_steps == 7
    for step in range(1, 8):
        batch = run.plan.global_batch(step)
        documents = run.plan.documents
        numbers = (documents.lengths, documents.attention, run.data.trained_tokens)
        useful = run.flops.useful(*(values[batch] for values in numbers)).sum()
        assert plan.of_step(step) == pytest.approx(useful)
    assert plan.between(2, 7) == pytest.approx(plan.step_flops[2:].sum())
    assert len(set(plan.step_flops.round())) > 1
