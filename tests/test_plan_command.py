"""Property: `sft plan` says what the run will train, and the run trains just that.

Run: pytest tests/test_plan_command.py
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from trainer_runs import (
    ROOT,
    conversations,
    losses,
    plan_of,
    read_status,
    run,
    train_args,
    write_dataset,
)
from typer.testing import CliRunner

from pipeline import cli
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data import load
from pipeline.trainer.data.collate import IGNORE_INDEX, MicroBatch, collate, collate_trees
from pipeline.trainer.data.packing import Sequences
from pipeline.trainer.data.plan import Plan
from pipeline.trainer.data.plan_input import Documents
from pipeline.trainer.data.plan_report import PlanQuality


@pytest.fixture
def args(tiny_model: Path, tmp_path: Path) -> TrainArgs:
    dataset_dir = write_dataset(tmp_path / "data", [*conversations(23), {"conversations": []}])
    return train_args(
        tiny_model,
        dataset_dir,
        tmp_path / "run",
        packing=True,
        cutoff_len=150,
        max_steps=-1,
        num_train_epochs=1.5,
    )


def _plan(args: TrainArgs, *options: str, status: int = 0) -> str:
    file = Path(args.output_dir).with_suffix(".yaml")
    file.write_text(yaml.safe_dump(args.model_dump(mode="json")))
    done = CliRunner().invoke(cli.app, ["plan", str(file), *options])
    assert done.exit_code == status, done.output
    return done.stdout


def test_the_run_reproduces_the_plan(args: TrainArgs) -> None:
    told = json.loads(_plan(args, "--world-size", "1", "--json"))
    output = run(args)
    plan, data = plan_of(args)
    status = read_status(Path(args.output_dir))
    assert status["plan"] == told["plan"] == plan.hash
    assert f"plan {plan.hash}" in output
    assert status["total_steps"] == told["steps"] == len(losses(Path(args.output_dir)))
    assert told["tokens"] == data.example_tokens.sum()
    assert told["sequences"] == len(plan.epochs[0])
    assert told["fill"] > 0.5
    assert (told["tokens_lost"], told["rows_rejected"]) == (0, 1)
    assert told["turns_over_cutoff"] > 0


def test_the_number_of_ranks_changes_balance_not_the_plan(args: TrainArgs) -> None:
    same_batch = args.model_copy(update={"per_device_train_batch_size": 1})
    alone = json.loads(_plan(args, "--world-size", "1", "--json"))
    both = json.loads(_plan(same_batch, "--world-size", "2", "--json"))
    assert (alone["balance"], alone["micro_balance"]) == (1, 1)
    assert both["micro_balance"] < both["balance"] < 1
    changed = {"world_size", "balance", "micro_balance", "memory"}
    assert {key for key in alone if alone[key] != both[key]} == changed


@pytest.mark.slow
def test_ranks_without_a_sequence_wait_and_change_nothing(args: TrainArgs, tmp_path: Path) -> None:
    """One row, two ranks: one of them never has anything to train."""
    write_dataset(Path(args.dataset_dir), conversations(1))
    found = []
    for ranks in (1, 2):
        run_args = args.model_copy(
            update={
                "output_dir": str(tmp_path / str(ranks)),
                "cutoff_len": 1000,
                "num_train_epochs": 2.0,
                "per_device_train_batch_size": 2 // ranks,
            }
        )
        plan, _ = plan_of(run_args, ranks)
        assert len(plan.epochs[0]) == 1
        run(run_args, ranks=ranks)
        found.append(losses(tmp_path / str(ranks)))
    assert len(found[0]) == 2
    assert found[1] == pytest.approx(found[0], abs=1e-6)


def test_the_plan_in_words(args: TrainArgs) -> None:
    told = json.loads(_plan(args, "--json"))
    lines = _plan(args).splitlines()
    assert lines[0] == (
        f"plan {told['plan']}: {told['steps']} steps of 4 packed sequences on 1 ranks, "
        f"{told['epochs']:.4g} epochs"
    )
    assert lines[1].endswith(f"{told['documents']} trees of examples; 0 more are held out")
    assert lines[2].startswith("data: 24 rows, ")
    assert lines[3].startswith(f"fill {told['fill']:.4f} | balance 1.0000")
    assert lines[4].startswith("lost: 0 tokens by the plan; ")
    assert lines[-2] == (
        f"time: {told['time']['useful_flops']:.3g} useful FLOP in {told['steps']} steps; how long "
        "they take is known when some have run"
    )
    assert re.match(r"memory: [\d.]+ MiB per rank at its peak \(", lines[-1])
    assert told["memory"]["predicted_bytes"] == sum(told["memory"]["classes"].values())
    assert told["computed_tokens"] < told["tokens"]
    assert lines[5] == (
        f"shared prefixes: the {told['tokens']:,} tokens of {told['examples']} examples are "
        f"computed as {told['computed_tokens']:,}, "
        f"{told['tokens'] / told['computed_tokens']:.1f} times fewer"
    )
    separate = _plan(args.model_copy(update={"share_prefixes": False})).splitlines()
    assert separate[1].endswith(f"{told['examples']} examples; 0 more are held out")
    assert len(separate) == 7


@pytest.mark.parametrize("packing", [True, False])
def test_the_tensors_of_every_example_are_those_of_the_preview(
    args: TrainArgs, packing: bool
) -> None:
    args = args.model_copy(update={"packing": packing, "val_size": 3.0})
    told = json.loads(_plan(args, "--world-size", "2", "--check", "--json"))
    check = told["check"]
    assert (check["is_equal"], check["differing_rows"]) == (True, [])
    assert check["examples"] == told["examples"] > told["documents"] + told["held_out"]
    assert check["preview_sha256"] == check["training_sha256"]
    last = _plan(args, "--world-size", "2", "--check").splitlines()[-1]
    shown = check["preview_sha256"][:16]
    assert last == (
        f"tensors of {check['examples']} examples, shown {shown}, trained {shown}: the same"
    )


def _shifted_label(batch: MicroBatch) -> None:
    batch.positions[-1] -= 1


def _masked_label(batch: MicroBatch) -> None:
    batch.labels[-1, -1] = IGNORE_INDEX


def _wrong_weight(batch: MicroBatch) -> None:
    batch.weights[-1, -1] = 2.0


def _wrong_token(batch: MicroBatch) -> None:
    batch.input_ids[-1, 0] += 1


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("plant", [_shifted_label, _masked_label, _wrong_weight, _wrong_token])
def test_a_planted_difference_is_found(
    args: TrainArgs,
    packing: bool,
    plant: Callable[[MicroBatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = {"packing": packing, "share_prefixes": packing, "per_device_train_batch_size": 1}
    args = args.model_copy(update=changes)
    planted: list[str] = []

    def spoilt(documents: list[Any], pad_token_id: int) -> MicroBatch:
        batch = (collate_trees if packing else collate)(documents, pad_token_id)
        if not planted:
            plant(batch)
            planted.append("once")
        return batch

    monkeypatch.setattr(load, "collate_trees" if packing else "collate", spoilt)
    told = json.loads(_plan(args, "--check", "--json", status=1))["check"]
    assert told["preview_sha256"] != told["training_sha256"]
    [row] = told["differing_rows"]
    planted.clear()
    assert f"1 examples differ\ndiffers: {row}\n" in _plan(args, "--check", status=1)


def test_a_poor_balance_comes_with_the_way_out(args: TrainArgs) -> None:
    """With one sequence per rank and step, a plan has no other freedom than which ones meet."""
    one_each = {"gradient_accumulation_steps": 1, "per_device_train_batch_size": 1}
    poor = args.model_copy(update={"packing": False, **one_each})
    told = json.loads(_plan(poor, "--world-size", "4", "--json"))
    assert told["balance"] < told["balance_grouped_by_length"]
    lines = _plan(poor, "--world-size", "4").splitlines()
    grouped = told["balance_grouped_by_length"]
    way_out = f"training.group_by_length would give balance {grouped:.4f}"
    assert any(way_out in line for line in lines)
    better = poor.model_copy(update={"group_by_length": True})
    assert json.loads(_plan(better, "--world-size", "4", "--json"))["balance"] == grouped
    assert len(_plan(better, "--world-size", "4").splitlines()) == len(lines) - 1


def _quality(
    lengths: list[int], ranks: int, capacity: int | None, micro: int = 1, planned: int = 4
) -> PlanQuality:
    documents = Documents.from_lengths(np.asarray(lengths))
    plan = Plan(
        documents=documents,
        costs=documents.lengths * 10,
        epochs=[Sequences.one_each(np.arange(planned))],
        held_out=np.arange(0),
        micro_batch_size=micro,
        accumulation_steps=len(lengths) // ranks // micro,
        world_size=ranks,
        total_steps=1,
        capacity=capacity,
        pads=capacity is None,
        seed=0,
        order="file",
    )
    return PlanQuality.of(plan)


def test_quality_by_hand() -> None:
    # Rank 0 gets 8 and 3, rank 1 gets 7 and 4: 22 of 2 x 11, but 8 + 4 are waited for twice.
    packed = _quality([8, 7, 4, 3], ranks=2, capacity=10)
    assert packed.fill == 22 / 40
    assert packed.balance == 1
    assert packed.micro_balance == pytest.approx(22 / (2 * (8 + 4)))
    # Padded, a micro-batch of 8 and 3 is worth 16, that of 7 and 4 is worth 14.
    padded = _quality([8, 7, 4, 3], ranks=2, capacity=None, micro=2)
    assert padded.fill == 22 / (16 + 14)
    assert padded.balance == padded.micro_balance == pytest.approx(30 / 32)


def test_documents_that_no_step_holds_are_counted() -> None:
    assert _quality([5, 6, 7], ranks=1, capacity=None, planned=2).tokens_lost == 7


def test_the_benchmark_meets_the_goals_at_a_global_batch_of_64_on_8_ranks() -> None:
    """fill >= 0.995, balance >= 0.95, nothing lost, over all mixes."""
    options = ["--plan", "--ranks", "8", "--global-batch", "64", "--json"]
    done = subprocess.run(
        [sys.executable, "benchmarks/tokens.py", *options],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["fill"] >= 0.995
    assert found["balance"] >= 0.95
    assert found["tokens_lost"] == 0
