"""Property: a step unlike the others is named, and left out when asked, as if it had never been.

Run: pytest tests/test_trainer_anomaly.py
"""

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_loop import reference_run
from safetensors.torch import load_file
from trainer_runs import plan_of, read_log, run, spoilt_model, train_args, write_dataset

from pipeline.errors import ConfigError, TrainError
from pipeline.trainer.anomaly import WINDOW, Watch
from pipeline.trainer.args import TrainArgs, load_train_args
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

pytestmark = pytest.mark.usefixtures("rank_of_its_own")

_ODD_STEP = 20


def _row(reply: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": "what is wrong"}, {"from": "gpt", "value": reply}]
    return {"conversations": turns}


@pytest.fixture
def dataset_dir(tmp_path: Path) -> Path:
    """Rows that are all alike but one, whose few tokens give a larger gradient."""
    rows = [_row("the test failed again so we fix the file and read what is wrong")] * 24
    rows[_ODD_STEP - 1] = _row("no")
    return write_dataset(tmp_path / "data", rows)


def _args(model: Path, dataset_dir: Path, output_dir: Path, **changes: Any) -> TrainArgs:
    values = {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "max_steps": 24,
        "disable_shuffling": True,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "spike_threshold": 5,
        "save_steps": 18,
        **changes,
    }
    return train_args(model, dataset_dir, output_dir, **values)


def _anomalies(output_dir: Path) -> list[dict[str, Any]]:
    lines = (output_dir / "trainer_log.jsonl").read_text("utf-8").splitlines()
    return [line for line in map(json.loads, lines) if "anomaly" in line]


def _results(output_dir: Path) -> tuple[int, int]:
    results = json.loads((output_dir / "all_results.json").read_bytes())
    return results["num_anomalies"], results["num_steps_skipped"]


def _looks(watch: Watch, losses: list[float]) -> list[str | None]:
    return [watch.look(loss, 1.0) for loss in losses]


def test_a_spike_is_far_above_what_is_usual() -> None:
    draw = random.Random(0)
    noise = [2 + draw.gauss(0, 0.1) for _ in range(200)]
    assert _looks(Watch(10.0, {}), noise) == [None] * 200
    watch = Watch(10.0, {})
    _looks(watch, [1.9, 2.0, 2.1] * 20)
    assert watch.look(3.4, 1.0) is None  # a deviation is 0.148
    assert watch.look(3.6, 1.0) == "the loss is 3.6, usual is 2"
    assert watch.look(2.0, 50.0) == "the gradient norm is 50, usual is 1"
    assert watch.look(6.0, 50.0) == (
        "the loss is 6, usual is 2 and the gradient norm is 50, usual is 1"
    )
    assert watch.look(0.1, 0.1) is None, "a low loss is no reason to worry"


def test_a_loss_that_falls_or_settles_elsewhere_is_no_spike_for_long() -> None:
    assert not any(_looks(Watch(10.0, {}), [10 * 0.97**step for step in range(300)]))
    found = _looks(Watch(10.0, {}), [2.0] * 100 + [4.0] * 100)
    assert [bool(what) for what in found[100:]] == [True] * 32 + [False] * 68


def test_nothing_is_unusual_until_it_is_known_what_is_usual() -> None:
    assert _looks(Watch(10.0, {}), [2.0] * 15 + [90.0]) == [None] * 16
    assert _looks(Watch(10.0, {}), [2.0] * 16 + [90.0])[-1] is not None
    assert _looks(Watch(None, {}), [2.0] * 16 + [90.0]) == [None] * 17


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_number_is_an_anomaly_at_once_and_is_forgotten(value: float) -> None:
    watch = Watch(None, {})
    assert watch.look(value, 1.0) == f"the loss is {value}"
    assert watch.look(1.0, value) == f"the gradient norm is {value}"
    assert watch.progress() == {"losses": [1.0], "grad_norms": [1.0]}


def test_a_resumed_watch_knows_what_is_usual() -> None:
    first = Watch(10.0, {})
    _looks(first, [2.0] * 90)
    assert len(first.progress()["losses"]) == WINDOW
    resumed = Watch(10.0, json.loads(json.dumps(first.progress())))
    assert resumed.look(9.0, 1.0) == first.look(9.0, 1.0) == "the loss is 9, usual is 2"


def test_a_spike_is_reported_with_its_row(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    train(_args(tiny_model, dataset_dir, tmp_path / "run"), StopRequest())
    (found,) = _anomalies(tmp_path / "run")
    assert found["current_steps"] == _ODD_STEP
    assert "the gradient norm is" in found["anomaly"]
    assert (found["rows"], found["skipped"]) == ([f"demo:{_ODD_STEP - 1}"], False)
    assert len(read_log(tmp_path / "run")) == 24
    assert _results(tmp_path / "run") == (1, 0)


def test_a_spike_stops_the_run_when_asked(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    args = _args(tiny_model, dataset_dir, tmp_path / "run", on_anomaly="stop")
    with pytest.raises(TrainError, match=r"^step 20: .*gradient norm is .*this batch: 19\. "):
        train(args, StopRequest())
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-18"]


def test_a_skipped_step_leaves_no_trace_in_the_weights(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    """Compared with a run of the plainest kind over all batches but the odd one."""
    output_dir = tmp_path / "run"
    args = _args(tiny_model, dataset_dir, output_dir, on_anomaly="skip")
    train(args, StopRequest())
    plan, data = plan_of(args)
    batches = [
        [example for document in plan.global_batch(step) for example in data.examples(document)]
        for step in range(1, 25)
        if step != _ODD_STEP
    ]
    losses, weights = reference_run(args, batches)
    lines = read_log(output_dir)
    assert [line["current_steps"] for line in lines] == [*range(1, 20), *range(21, 25)]
    assert [line["loss"] for line in lines] == pytest.approx(losses, abs=1e-5)
    saved = load_file(output_dir / "model.safetensors")
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor, weights[name], atol=1e-6, rtol=0)
    (found,) = _anomalies(output_dir)
    assert (found["current_steps"], found["skipped"]) == (_ODD_STEP, True)
    assert _results(output_dir) == (1, 1)
    whole = (output_dir / "model.safetensors").read_bytes()
    shutil.rmtree(output_dir / "checkpoint-24")
    train(args.model_copy(update={"resume_from_checkpoint": "latest"}), StopRequest())
    assert (output_dir / "model.safetensors").read_bytes() == whole
    assert _results(output_dir) == (1, 1)


def test_a_model_that_only_fails_is_not_skipped_through(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    model = spoilt_model(tiny_model, tmp_path / "model", "model.norm.weight", math.nan)
    args = _args(model, dataset_dir, tmp_path / "run", on_anomaly="skip")
    with pytest.raises(TrainError, match="step 10: the loss is nan .*; the last 10 steps have all"):
        train(args, StopRequest())
    assert [line["current_steps"] for line in _anomalies(tmp_path / "run")] == [*range(1, 10)]


def test_deepspeed_cannot_skip(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(
        "model_name_or_path: m\ndataset: d\ndataset_dir: .\noutput_dir: o\n"
        "deepspeed: ds.json\non_anomaly: skip\n"
    )
    with pytest.raises(ConfigError, match=r"train.yaml:6:13: on_anomaly: skip: DeepSpeed clips"):
        load_train_args(file)


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [None, "full_shard"])
def test_all_ranks_skip_the_same_step(tiny_model: Path, tmp_path: Path, fsdp: str | None) -> None:
    """The row is odd for the gradient of both."""
    rows = [_row("the test failed again so we fix the file and read what is wrong")] * 48
    rows[2 * _ODD_STEP - 1] = rows[2 * _ODD_STEP - 2] = _row("no")
    dataset_dir = write_dataset(tmp_path / "data", rows)
    args = _args(tiny_model, dataset_dir, tmp_path / "run", on_anomaly="skip", fsdp=fsdp)
    run(args, ranks=2)
    (found,) = _anomalies(tmp_path / "run")
    assert found["rows"] == [f"demo:{2 * _ODD_STEP - 2}", f"demo:{2 * _ODD_STEP - 1}"]
    assert (found["current_steps"], found["skipped"]) == (_ODD_STEP, True)
