"""Property: rows that begin alike train as one tree just as they do alone.

Run: pytest tests/test_trainer_forks.py
"""

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from reference_loop import reference_run
from safetensors.torch import load_file
from trainer_runs import (
    RankServer,
    examples_of,
    losses,
    plan_of,
    read_log,
    tokenise,
    train_args,
    write_dataset,
)
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import ConfigError
from pipeline.trainer.args import TrainArgs, load_train_args
from pipeline.trainer.data import neighbours
from pipeline.trainer.data.example_trees import ExampleTrees
from pipeline.trainer.data.neighbours import across_rows
from pipeline.trainer.data.prefix_tree import PrefixTree

_WORDS = "the file was read and then one test of it failed again so we fix what is wrong".split()


def _rows(seed: int, tasks: int = 3) -> list[dict[str, Any]]:
    """Attempts at some tasks in any order, some of which are forks of another, or the same."""
    draw = random.Random(seed)

    def turns(count: int, size: int) -> list[dict[str, str]]:
        return [
            {"from": of, "value": " ".join(draw.choices(_WORDS, k=draw.randint(1, size)))}
            for _ in range(count)
            for of in ("human", "gpt")
        ]

    rows = []
    for _ in range(tasks):
        task = {"from": "human", "value": " ".join(draw.choices(_WORDS, k=80))}
        for _ in range(draw.randint(1, 3)):
            trunk = [task, *turns(draw.randint(1, 3), 30)[1:]]
            rows += [
                {"conversations": trunk + turns(draw.randint(0, 2), 30)}
                for _ in range(draw.randint(1, 3))
            ]
    draw.shuffle(rows)
    return rows


def _args(model: Path, directory: Path, **changes: Any) -> TrainArgs:
    given = {"share_prefixes": "dataset", "max_steps": -1, "num_train_epochs": 1, **changes}
    return train_args(model, directory / "data", directory / "run", **given)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("cutoff_len", [300, 4096])
def test_every_example_is_in_one_tree_which_holds_its_tokens(
    tiny_model: Path, tmp_path: Path, seed: int, cutoff_len: int
) -> None:
    write_dataset(tmp_path / "data", _rows(seed))
    write_dataset(tmp_path / "data", _rows(seed), "more")
    args = _args(
        tiny_model, tmp_path, dataset="demo, more", val_size=0.3, cutoff_len=cutoff_len, seed=seed
    )
    plan, data = plan_of(args)
    numbers = list(range(len(data)))
    store = data.store
    wanted = [(store.dataset(i), store[i]) for i in range(len(store))]
    found = [(data.dataset(number), e) for number in numbers for e in data.examples(number)]
    assert sorted(found, key=repr) == sorted(wanted, key=repr)
    for number in numbers:
        tree, expected = data.tree(number), PrefixTree.of(data.examples(number))
        for name in ("ids", "depths", "ranks", "ends", "predictors", "labels", "weights"):
            assert np.array_equal(getattr(tree, name), getattr(expected, name))
        assert len(tree) == data.num_tokens(number) <= cutoff_len
        assert tree.weights.sum() == pytest.approx(data.loss_weight(number))
    assert any(len(data.rows_of(number)) > 1 for number in numbers)
    # Rows are held out as without trees, and each of them wholly.
    alone_plan, alone = plan_of(args.model_copy(update={"share_prefixes": False}))
    held_out = _rows_in(data, plan.held_out)
    assert held_out == _rows_in(alone, alone_plan.held_out)
    assert not held_out & _rows_in(data, plan.epochs[0].documents)
    assert data.lengths.sum() < 0.7 * alone.lengths.sum()


def _rows_in(data: ExampleTrees, documents: np.ndarray) -> set[tuple[str, int]]:
    return {(data.dataset(i), row) for i in documents.tolist() for row in data.rows_of(i)}


def test_hashes_that_agree_by_chance_share_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "data", _rows(0))
    store = tokenise(_args(tiny_model, tmp_path)).store
    monkeypatch.setattr(neighbours, "_POWERS", np.zeros_like(neighbours._POWERS))
    found = across_rows(store, np.array([], dtype=np.int64))
    for (before, example), shared in zip(
        pairwise(found.examples.tolist()), found.shared[1:].tolist(), strict=True
    ):
        assert (store.ids(before)[:shared] == store.ids(example)[:shared]).all()


@pytest.mark.parametrize(
    ("ranks", "changes"),
    [
        (1, {"packing": True, "cutoff_len": 700}),
        pytest.param(2, {}, marks=pytest.mark.slow),
    ],
    ids=["packed", "ddp"],
)
def test_a_run_of_forks_equals_the_plain_reference_loop(
    tiny_model: Path, tmp_path: Path, ranks: int, changes: dict[str, Any], rank_server: RankServer
) -> None:
    write_dataset(tmp_path / "data", _rows(1, tasks=5))
    args = _args(
        tiny_model,
        tmp_path,
        per_device_train_batch_size=2 // ranks,
        max_steps=3,
        adam_epsilon=1e-5,  # far above what rounding leaves of a gradient that is zero
        **changes,
    )
    output = rank_server.run(args, ranks=ranks)
    plan, data = plan_of(args, ranks)
    assert f"examples are {len(data)} trees of " in output
    assert f"plan {plan.hash}" in output
    batches = [examples_of(data, plan.global_batch(step)) for step in range(1, 4)]
    expected, weights = reference_run(args, batches)
    assert losses(tmp_path / "run") == pytest.approx(expected, abs=1e-5)
    for name, weight in load_file(tmp_path / "run" / "model.safetensors").items():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-5)


def test_one_step_with_all_of_them_is_that_of_the_separate_rows(
    tiny_model: Path, tmp_path: Path, rank_server: RankServer
) -> None:
    write_dataset(tmp_path / "data", _rows(2))
    logs, lengths = [], []
    for share_prefixes in ("dataset", False):
        args = _args(
            tiny_model,
            tmp_path,
            share_prefixes=share_prefixes,
            per_device_train_batch_size=40,
            max_steps=1,
            val_size=2.0,
        ).model_copy(update={"output_dir": str(tmp_path / f"run-{share_prefixes}")})
        rank_server.run(args, ranks=1)
        plan, data = plan_of(args)
        lengths.append(data.lengths.sum())
        log = read_log(Path(args.output_dir))[0]
        results = json.loads((Path(args.output_dir) / "eval_results.json").read_bytes())
        logs.append([log["loss"], log["grad_norm"], results["eval_loss"]])
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)
    assert lengths[0] < 0.7 * lengths[1]


def test_plan_says_what_it_saves_and_checks_the_tensors(tiny_model: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", _rows(3))
    args = _args(tiny_model, tmp_path)
    file = tmp_path / "train.yaml"
    file.write_text(yaml.safe_dump(args.model_dump(mode="json")))
    done = CliRunner().invoke(app, ["plan", str(file), "--check", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    plan, data = plan_of(args)
    assert told["plan"] == plan.hash != plan_of(args.model_copy(update={"seed": 7}))[0].hash
    assert plan.hash != plan_of(args.model_copy(update={"share_prefixes": True}))[0].hash
    assert told["check"]["is_equal"]
    assert told["check"]["examples"] == told["examples"]
    assert told["computed_tokens"] == data.lengths.sum() < 0.7 * told["tokens"]
    assert told["documents"] == len(data) < told["rows"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            "mix_strategy: interleave_once",
            "2:17: share_prefixes: dataset puts rows together that mix_strategy interleave_once "
            "takes one by one: choose one of them",
        ),
        (
            "disable_shuffling: true",
            "3:20: disable_shuffling: contradicts share_prefixes dataset, which brings rows that",
        ),
        (
            "curriculum: score",
            "3:13: curriculum: score contradicts share_prefixes dataset, whose trees have rows of",
        ),
    ],
)
def test_what_takes_rows_one_by_one_is_refused(tmp_path: Path, keys: str, message: str) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(
        f"dataset: a, b\nshare_prefixes: dataset\n{keys}\nmodel_name_or_path: m\ndataset_dir: .\n"
        "output_dir: o\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_train_args(file)
    assert f"train.yaml:{message}" in str(caught.value)
