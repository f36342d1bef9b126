"""Property: datasets are mixed as LLaMA-Factory mixes them, and alike on any number of ranks.

Run: pytest tests/test_trainer_mix.py
"""

import json
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from datasets import Dataset, interleave_datasets
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_runs import CROSSOVER, conversations, plan_of, train_args, write_dataset
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import ConfigError, DataError
from pipeline.trainer.args import TrainArgs, load_train_args
from pipeline.trainer.data.mix import mix
from pipeline.trainer.data.plan import Plan
from pipeline.trainer.data.plan_input import Documents
from pipeline.trainer.keys.data import MixStrategy

_STRATEGIES = {
    "interleave_under": "first_exhausted",
    "interleave_over": "all_exhausted",
    "interleave_once": "all_exhausted_without_replacement",
}


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    strategy=st.sampled_from(list(_STRATEGIES)),
    weights=st.none() | st.lists(st.integers(1, 9), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
def test_rows_come_as_llamafactory_takes_them(
    lengths: list[int], strategy: MixStrategy, weights: list[int] | None, seed: int
) -> None:
    starts = [0, *accumulate(lengths)]
    probabilities = None
    if weights is not None:
        total = sum(weights[: len(lengths)])
        probabilities = [weight / total for weight in weights[: len(lengths)]]
    expected = interleave_datasets(
        [
            Dataset.from_dict({"row": range(start, start + length)})
            for start, length in zip(starts, lengths, strict=False)
        ],
        probabilities=probabilities,
        seed=seed,
        stopping_strategy=_STRATEGIES[strategy],  # type: ignore[arg-type]
    )
    assert mix(lengths, strategy, probabilities, seed).tolist() == expected["row"]


@pytest.fixture
def args(tiny_model: Path, tmp_path: Path) -> TrainArgs:
    """17 rows and 5 rows, most of them of several examples."""
    dataset_dir = write_dataset(tmp_path / "data", conversations(17))
    write_dataset(dataset_dir, conversations(5, seed=1), "few")
    return train_args(
        tiny_model,
        dataset_dir,
        tmp_path / "run",
        dataset="demo, few",
        max_steps=-1,
        num_train_epochs=2,
    )


def _changed(args: TrainArgs, **changes: Any) -> TrainArgs:
    return TrainArgs.model_validate(args.model_dump() | changes)


def _rows(args: TrainArgs, epoch: int = 0, world_size: int = 1) -> list[tuple[str, int]]:
    """Dataset and row of the examples of an epoch, step by step, each row once per visit."""
    plan, data = plan_of(args, world_size)
    first = plan.epoch_ends[epoch - 1] if epoch else 0
    of_steps = [
        sorted((data.dataset(i), *data.rows_of(i)) for i in plan.global_batch(step + 1))
        for step in range(first, plan.epoch_ends[epoch])
    ]
    return [row for rows in of_steps for row in rows]


def test_concat_trains_all_rows_of_all(args: TrainArgs) -> None:
    assert set(_rows(args)) == {
        *(("demo", row) for row in range(17)),
        *(("few", row) for row in range(5)),
    }


@pytest.mark.parametrize(("max_samples", "counts"), [(3, (3, 3)), (5, (5, 5)), (99, (17, 5))])
def test_max_samples_counts_rows_of_each_dataset(
    args: TrainArgs, max_samples: int, counts: tuple[int, int]
) -> None:
    rows = set(_rows(_changed(args, max_samples=max_samples)))
    assert rows == {
        *(("demo", row) for row in range(counts[0])),
        *(("few", row) for row in range(counts[1])),
    }


@pytest.mark.parametrize(
    ("strategy", "demo", "few"), [("under", 5, 1), ("over", 17, 4), ("once", 17, 1)]
)
def test_a_row_that_is_repeated_brings_all_its_examples(
    args: TrainArgs, strategy: str, demo: int, few: int
) -> None:
    once = {row: _rows(args).count(row) for row in set(_rows(args))}
    mixed = _changed(args, mix_strategy=f"interleave_{strategy}")
    for epoch in (0, 1):
        rows = _rows(mixed, epoch)
        assert {row for name, row in rows if name == "demo"} == set(range(demo))
        visits = [rows.count(("few", row)) / once[("few", row)] for row in range(5)]
        assert visits == ([few, few, few - 1, few - 1, few - 1] if few > 1 else [1] * 5)


def test_file_order_is_that_of_the_mix(args: TrainArgs) -> None:
    alternating = _changed(
        args,
        mix_strategy="interleave_over",
        disable_shuffling=True,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
    )
    plan, data = plan_of(alternating)
    order = [i for step in range(plan.epoch_ends[0]) for i in plan.global_batch(step + 1)]
    visits = [data.rows_of(i) for i in order if data.dataset(i) == "demo"]
    assert visits == sorted(visits)
    names = [data.dataset(i) for i in order if i == 0 or data.rows_of(i) != data.rows_of(i - 1)]
    assert names[:4] == ["demo", "few", "demo", "few"]


def test_a_packed_mix_keeps_roughly_to_the_order_of_the_file(args: TrainArgs) -> None:
    """However often a document is repeated, each of its places counts."""
    lengths = np.random.default_rng(0).integers(1, 100, 4040)
    documents = replace(
        Documents.from_lengths(lengths),
        datasets=(np.arange(4040) >= 4000).astype(np.int64),
        dataset_names=("demo", "few"),
        num_trained_datasets=2,
    )
    packed = _changed(
        args, mix_strategy="interleave_over", disable_shuffling=True, packing=True, cutoff_len=100
    )
    plan = Plan.of(packed, documents, 1, CROSSOVER)
    sequences = [plan.epochs[0][i] for i in range(len(plan.epochs[0]))]
    means = [of_demo.mean() for s in sequences if len(of_demo := s[s < 4000])]
    assert np.corrcoef(means, np.arange(len(means)))[0, 1] > 0.99


def test_the_plan_is_the_same_on_any_number_of_ranks_and_says_what_it_mixes(
    args: TrainArgs,
) -> None:
    drawn = _changed(args, mix_strategy="interleave_over", interleave_probs="0.5, 0.5")
    split = _changed(drawn, per_device_train_batch_size=1, gradient_accumulation_steps=2)
    assert plan_of(drawn)[0].identity() == plan_of(split, 2)[0].identity()
    assert _rows(drawn) == _rows(split, world_size=2)
    hashes = {plan_of(_changed(drawn, seed=seed))[0].hash for seed in (1, 2)}
    hashes |= {plan_of(_changed(drawn, data_seed=1, seed=2))[0].hash, plan_of(args)[0].hash}
    assert len(hashes) == 4

    told = _plan(drawn, "--json")
    shares = json.loads(told)["datasets"]
    rows = _rows(drawn)
    assert shares["few"]["documents"] == sum(name == "few" for name, _ in rows)
    assert shares["demo"]["documents"] == sum(name == "demo" for name, _ in rows)
    assert f"of each dataset: demo {shares['demo']['documents']} trees of examples (" in _plan(
        drawn
    )


def _plan(args: TrainArgs, *options: str) -> str:
    file = Path(args.output_dir).with_suffix(".yaml")
    file.write_text(yaml.safe_dump(args.model_dump(mode="json")))
    done = CliRunner().invoke(app, ["plan", str(file), *options])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_held_out_rows_are_not_in_the_mix(args: TrainArgs) -> None:
    mixed = _changed(args, mix_strategy="interleave_over", val_size=6.0)
    plan, data = plan_of(mixed)
    held_out = {(data.dataset(i), *data.rows_of(i)) for i in plan.held_out.tolist()}
    assert len(held_out) == 6
    assert not held_out & set(_rows(mixed))


def test_a_dataset_of_which_nothing_is_left_cannot_be_mixed(args: TrainArgs) -> None:
    write_dataset(Path(args.dataset_dir), [{"conversations": []}], "few")
    assert {name for name, _ in _rows(args)} == {"demo"}
    with pytest.raises(DataError, match="mix_strategy: no row of dataset 'few' can be trained on"):
        plan_of(_changed(args, mix_strategy="interleave_once"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("interleave_probs: 0.5,0.5", "2:19: interleave_probs: needs mix_strategy interleave_u"),
        (
            "mix_strategy: interleave_once\ninterleave_probs: 0.5,0.6",
            "3:19: interleave_probs: must be numbers above 0 that add up to 1, separated by commas "
            "(got '0.5,0.6')",
        ),
        (
            "mix_strategy: interleave_once\ninterleave_probs: a,b",
            "3:19: interleave_probs: must be numbers above 0 that add up to 1, separated by commas "
            "(got 'a,b')",
        ),
        (
            "mix_strategy: interleave_once\ninterleave_probs: 0.2,0.3,0.5",
            "1:10: dataset: 2 datasets to train on, but interleave_probs has 3 numbers",
        ),
        ("eval_dataset: c, a", "1:10: dataset: 'a' is named twice and in eval_dataset; name it"),
        ("eval_dataset: c\nval_size: 0.1", "2:15: eval_dataset: contradicts val_size: choose one"),
    ],
)
def test_contradicting_keys_are_refused_with_their_position(
    tmp_path: Path, keys: str, message: str
) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(
        f"dataset: a, b\n{keys}\nmodel_name_or_path: m\ndataset_dir: .\noutput_dir: o\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_train_args(file)
    assert f"train.yaml:{message}" in str(caught.value)
