"""Property: held out rows are never trained on, and their loss is that of the model as it is.

Run: pytest tests/test_trainer_evaluation.py
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainer_runs import (
    CROSSOVER,
    ROOT,
    RankServer,
    conversations,
    examples_of,
    plan_of,
    train_args,
    write_dataset,
)
from transformers import AutoModelForCausalLM

from pipeline.errors import ConfigError, DataError
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.example_trees import ExampleTrees
from pipeline.trainer.data.holdout import held_out_rows
from pipeline.trainer.data.plan import Plan
from pipeline.trainer.data.plan_input import Documents, divide
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

_ROWS = np.asarray([0, 0, 1, 2, 2, 2, 3, 4, 5, 6, 7, 8, 9])


pytestmark = pytest.mark.usefixtures("rank_of_its_own")


@pytest.fixture
def dataset_dir(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", conversations(23))


def _args(model: Path, dataset_dir: Path, output_dir: Path, **changes: Any) -> TrainArgs:
    values = {"val_size": 0.2, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 5}
    return train_args(model, dataset_dir, output_dir, **{**values, **changes})


def _evaluations(output_dir: Path) -> list[tuple[int, float]]:
    lines = (output_dir / "trainer_log.jsonl").read_text().splitlines()
    found = [line for line in map(json.loads, lines) if "eval_loss" in line]
    return [(line["current_steps"], line["eval_loss"]) for line in found]


def _plain_loss(model_dir: Path, documents: np.ndarray, data: ExampleTrees) -> float:
    """One document at a time."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    loss = weight = 0.0
    for example in examples_of(data, documents.tolist()):
        with torch.no_grad():
            logs = model(torch.tensor([example.ids])).logits[0].log_softmax(dim=-1)
        for span in example.spans:
            for position in range(span.start, span.end):
                loss -= span.weight * logs[position - 1, example.ids[position]].item()
                weight += span.weight
    return loss / weight


@pytest.mark.parametrize(("val_size", "count"), [(0.0, 0), (0.2, 2), (0.21, 3), (1, 1), (4, 4)])
def test_whole_rows_are_held_out(val_size: float, count: int) -> None:
    documents = replace(
        Documents.from_lengths(np.ones(len(_ROWS), dtype=np.int64)),
        rows=_ROWS,
        all_rows=np.unique(_ROWS),
    )
    trained, held_out = divide(documents, val_size, seed=1)
    assert sorted([*trained, *held_out]) == list(range(len(_ROWS)))
    assert len(set(_ROWS[held_out])) == count
    assert not set(_ROWS[trained]) & set(_ROWS[held_out])


def test_the_seed_chooses_the_rows() -> None:
    chosen = {tuple(held_out_rows(_ROWS, 3, seed)) for seed in range(20)}
    assert len(chosen) > 5
    assert tuple(held_out_rows(_ROWS, 3, 7)) == tuple(held_out_rows(_ROWS, 3, 7))


@pytest.mark.parametrize(("val_size", "message"), [(10, "10 would hold out 10"), (0.95, "0.95 w")])
def test_something_must_be_left_to_train_on(val_size: float, message: str) -> None:
    with pytest.raises(ConfigError, match=f"val_size: {message}.* of 10 rows; lower it"):
        held_out_rows(_ROWS, val_size, seed=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"per_device_eval_batch_size": 1},
        {"per_device_eval_batch_size": 3},
        {"packing": True, "cutoff_len": 256},
    ],
    ids=["one by one", "padded", "packed"],
)
def test_the_loss_is_that_of_the_saved_model(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    args = _args(tiny_model, dataset_dir, tmp_path / "run", **changes)
    train(args, StopRequest())
    plan, data = plan_of(args)
    held_out = {row for i in plan.held_out for row in data.rows_of(i)}
    assert len(held_out) == 5  # a fifth of 23, rounded up
    assert not set(plan.held_out) & {i for step in range(1, 6) for i in plan.global_batch(step)}
    found = _evaluations(tmp_path / "run")
    assert [step for step, _ in found] == [2, 4, 5]
    assert found[-1][1] == pytest.approx(
        _plain_loss(tmp_path / "run", plan.held_out, data), abs=1e-5
    )
    results = json.loads((tmp_path / "run" / "eval_results.json").read_bytes())
    assert results["eval_loss"] == found[-1][1]
    everything = json.loads((tmp_path / "run" / "all_results.json").read_bytes())
    assert {"train_loss", "eval_loss"} <= everything.keys()


@pytest.fixture
def two_evaluated(dataset_dir: Path) -> Path:
    """23 rows to train on; 7 and 4 others."""
    write_dataset(dataset_dir, conversations(7, seed=1), "first")
    return write_dataset(dataset_dir, conversations(4, seed=2), "second")


@pytest.mark.parametrize("each", [False, True])
def test_other_datasets_are_evaluated_and_not_trained(
    tiny_model: Path, two_evaluated: Path, tmp_path: Path, each: bool
) -> None:
    args = _args(
        tiny_model,
        two_evaluated,
        tmp_path / "run",
        val_size=0.0,
        eval_dataset="first, second",
        eval_on_each_dataset=each,
        packing=True,
        cutoff_len=256,
    )
    train(args, StopRequest())
    plan, data = plan_of(args)
    assert {data.dataset(int(i)) for i in plan.epochs[0].documents} == {"demo"}
    of_each = plan.held_out_by_dataset()
    rows = {
        name: len({row for i in documents for row in data.rows_of(i)})
        for name, documents in of_each.items()
    }
    assert rows == {"first": 7, "second": 4}
    expected = {"eval_loss": _plain_loss(tmp_path / "run", plan.held_out, data)}
    if each:
        for name, documents in of_each.items():
            expected[f"eval_{name}_loss"] = _plain_loss(tmp_path / "run", documents, data)
    last = [json.loads(line) for line in (tmp_path / "run/trainer_log.jsonl").open()][-2]
    for found in (
        last,
        json.loads((tmp_path / "run" / "eval_results.json").read_bytes()),
        json.loads((tmp_path / "run" / "all_results.json").read_bytes()),
    ):
        losses = {key: found[key] for key in found if key.startswith("eval_") and "loss" in key}
        assert losses == pytest.approx(expected, abs=1e-5)


def test_the_trained_sequence_does_not_depend_on_other_datasets(
    tiny_model: Path, two_evaluated: Path, tmp_path: Path
) -> None:
    alone = _args(tiny_model, two_evaluated, tmp_path / "run", val_size=0.0, eval_strategy="no")
    beside = alone.model_copy(update={"eval_dataset": "second"})
    for step in range(1, 6):
        assert plan_of(alone)[0].global_batch(step) == plan_of(beside)[0].global_batch(step)


def test_a_dataset_of_which_nothing_can_be_evaluated_is_refused(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    write_dataset(dataset_dir, [{"conversations": []}], "broken")
    args = _args(tiny_model, dataset_dir, tmp_path / "run", val_size=0.0, eval_dataset="broken")
    with pytest.raises(DataError, match="eval_dataset: no row of 'broken' can be evaluated"):
        plan_of(args)


def test_looking_at_held_out_rows_changes_no_weight(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    for name, strategy in (("often", "steps"), ("once", "no")):
        args = _args(tiny_model, dataset_dir, tmp_path / name, eval_strategy=strategy, eval_steps=1)
        train(args, StopRequest())
    often, once = (_evaluations(tmp_path / name) for name in ("often", "once"))
    assert ([step for step, _ in often], once) == ([1, 2, 3, 4, 5], often[-1:])
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("often", "once")]
    assert weights[0] == weights[1]


def test_a_resumed_run_keeps_its_evaluations(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    args = _args(tiny_model, dataset_dir, tmp_path / "run", eval_steps=1, save_steps=3)
    train(args, StopRequest())
    whole = _evaluations(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-5")
    train(args.model_copy(update={"resume_from_checkpoint": "latest"}), StopRequest())
    assert _evaluations(tmp_path / "run") == whole
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_bytes())
    kept = [(e["step"], e["eval_loss"]) for e in state["log_history"] if "eval_loss" in e]
    assert kept == whole


def test_other_held_out_rows_are_another_plan() -> None:
    def plan_hash(**changes: Any) -> str:
        args = _args(Path("model"), Path("data"), Path("run"), **changes)
        return Plan.of(args, Documents.from_lengths(np.arange(1, 24)), 1, CROSSOVER).hash

    assert plan_hash() == plan_hash(eval_strategy="no") != plan_hash(val_size=0.4)


def test_evaluating_on_nothing_is_refused(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    args = _args(tiny_model, dataset_dir, tmp_path / "run", val_size=0.0)
    with pytest.raises(ConfigError, match="nothing to evaluate on; set val_size or eval_dataset"):
        train(args, StopRequest())


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3, 40])
def test_each_held_out_document_is_evaluated_once_by_any_number_of_ranks(
    ranks: int, packing: bool
) -> None:
    args = _args(Path("model"), Path("data"), Path("run"), packing=packing, cutoff_len=100)
    plan = Plan.of(args, Documents.from_lengths(np.arange(1, 100)), ranks, CROSSOVER)
    batches = [plan.evaluation(plan.held_out, rank, batch_size=2) for rank in range(ranks)]
    assert len({len(of_rank) for of_rank in batches}) == 1
    seen = [i for of_rank in batches for batch in of_rank for i in batch]
    assert sorted(seen) == plan.held_out.tolist()
    assert len(plan.held_out) == 20


@pytest.mark.slow
@pytest.mark.parametrize("zero", [None, 3], ids=["ddp", "zero-3"])
def test_ranks_share_the_evaluation(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path, zero: int | None, rank_server: RankServer
) -> None:
    deepspeed = zero and str(ROOT / f"training_config/deepspeed/ds_z{zero}_config.json")
    changes: dict[str, Any] = {"per_device_eval_batch_size": 1, "packing": True, "cutoff_len": 128}
    alone = _args(tiny_model, dataset_dir, tmp_path / "alone", **changes)
    train(alone, StopRequest())
    args = _args(
        tiny_model,
        dataset_dir,
        tmp_path / "both",
        per_device_train_batch_size=1,
        deepspeed=deepspeed,
        **changes,
    )
    rank_server.run(args, ranks=2)
    expected = _evaluations(tmp_path / "alone")
    found = _evaluations(tmp_path / "both")
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected], abs=1e-5)
