"""Property: the best checkpoint is kept, and is the final model if that is asked for.

Run: pytest tests/test_trainer_best.py
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from trainer_runs import conversations, train_args, write_dataset

from pipeline.errors import ConfigError, TrainError
from pipeline.trainer.args import TrainArgs, load_train_args
from pipeline.trainer.evaluation.best import badness, best_first
from pipeline.trainer.output_dir import checkpoint_directories
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

pytestmark = pytest.mark.usefixtures("rank_of_its_own")


def _args(model: Path, directory: Path, **changes: Any) -> TrainArgs:
    dataset_dir = write_dataset(directory / "data", conversations(11))
    values = {"val_size": 0.2, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 2}
    values |= {"load_best_model_at_end": True, "save_total_limit": 2, **changes}
    return train_args(model, dataset_dir, directory / "run", **values)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes())


def test_the_best_checkpoint_outlives_newer_ones_and_is_the_final_model(
    tiny_model: Path, tmp_path: Path
) -> None:
    """The loss falls, so the highest is the first that was measured where a checkpoint is."""
    args = _args(tiny_model, tmp_path, metric_for_best_model="loss", greater_is_better=True)
    train(args, StopRequest())
    output_dir = tmp_path / "run"
    assert [path.name for path in checkpoint_directories(output_dir)] == [
        *("checkpoint-2", "checkpoint-6")
    ]
    best, last = checkpoint_directories(output_dir)
    model = (output_dir / "model.safetensors").read_bytes()
    assert model == (best / "model.safetensors").read_bytes()
    assert model != (last / "model.safetensors").read_bytes()
    assert not {"state", "checkpoint.json"} & {path.name for path in output_dir.iterdir()}
    for directory in (output_dir, last):
        state = _read(directory / "trainer_state.json")
        losses = {e["step"]: e["eval_loss"] for e in state["log_history"] if "eval_loss" in e}
        assert list(losses) == [1, 2, 3, 4, 5, 6]
        assert max(losses, key=lambda step: losses[step]) == 1
        assert (state["best_global_step"], state["best_metric"]) == (2, losses[2])
        assert state["best_model_checkpoint"] == str(best)
        assert state["global_step"] == 6
    assert _read(output_dir / "eval_results.json")["eval_loss"] == losses[2]


def test_a_resumed_run_remembers_the_best(tiny_model: Path, tmp_path: Path) -> None:
    args = _args(tiny_model, tmp_path, save_total_limit=None, greater_is_better=True)
    train(args, StopRequest())
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    changes = {"resume_from_checkpoint": "latest", "save_total_limit": 1}
    train(args.model_copy(update=changes), StopRequest())
    names = [path.name for path in checkpoint_directories(tmp_path / "run")]
    assert names == ["checkpoint-2", "checkpoint-6"]
    assert _read(tmp_path / "run" / "trainer_state.json")["best_global_step"] == 2


@pytest.mark.parametrize(
    ("metric", "greater", "order"),
    [
        (None, None, [2, 3, 1, 4]),
        ("eval_loss", None, [2, 3, 1, 4]),
        ("loss", True, [1, 2, 3, 4]),
        ("accuracy", None, [1, 2, 3, 4]),
        ("eval_accuracy", False, [2, 3, 1, 4]),
    ],
)
def test_a_number_that_is_none_is_the_worst_and_of_equals_the_first_is_best(
    metric: str | None, greater: bool | None, order: list[int]
) -> None:
    changes = {"metric_for_best_model": metric, "greater_is_better": greater}
    args = train_args(Path("m"), Path("d"), Path("o"), compute_accuracy=True, **changes)
    values = {1: 3.0, 2: 2.0, 3: 2.0, 4: math.nan}
    found = {
        step: badness(args, {"eval_loss": value, "eval_accuracy": value})
        for step, value in values.items()
    }
    assert best_first(found) == order


def test_a_metric_that_was_not_measured_ends_the_run(tiny_model: Path, tmp_path: Path) -> None:
    args = _args(tiny_model, tmp_path, metric_for_best_model="acuracy", compute_accuracy=True)
    with pytest.raises(TrainError, match=r"no eval_acuracy \(found: eval_loss, eval_accuracy\)"):
        train(args, StopRequest())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "load_best_model_at_end: needs evaluated checkpoints, but eval_strategy is no and"),
        ("eval_strategy: epoch", "but eval_strategy is epoch and save_strategy steps; set both"),
        (
            "eval_strategy: steps\neval_steps: 3\nsave_steps: 10",
            r"but save_steps \(10\) is no multiple of eval_steps \(3\); make it one",
        ),
        (
            "eval_strategy: steps\nlogging_steps: 3\nsave_steps: 10",
            r"logging_steps: .* no multiple of logging_steps, which eval_steps takes \(3\)",
        ),
        (
            "metric_for_best_model: accuracy",
            "only eval_loss is measured; for more set compute_accuracy or",
        ),
    ],
)
def test_keys_that_cannot_work_together_are_refused(
    tmp_path: Path, lines: str, message: str
) -> None:
    file = tmp_path / "train.yaml"
    given = f"dataset: d\ndataset_dir: .\noutput_dir: o\nload_best_model_at_end: true\n{lines}\n"
    file.write_text(f"model_name_or_path: m\n{given}")
    with pytest.raises(ConfigError, match=message):
        load_train_args(file)
