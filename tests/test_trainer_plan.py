"""Property: every document once per epoch, in an order that no number of ranks changes.

Run: pytest tests/test_trainer_plan.py
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_runs import CROSSOVER, train_args
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    Qwen3NextConfig,
)

from pipeline.errors import ConfigError
from pipeline.trainer.args import TrainArgs, load_train_args
from pipeline.trainer.data.balance import spread
from pipeline.trainer.data.packing import pack
from pipeline.trainer.data.plan import Plan
from pipeline.trainer.data.plan_input import Documents
from pipeline.trainer.flops import ModelFlops


def _lengths(count: int, *, most: int = 100, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, most + 1, count)


def _args(**changes: Any) -> TrainArgs:
    values = {"max_steps": -1, "cutoff_len": 100, "gradient_accumulation_steps": 1, **changes}
    return train_args(Path("model"), Path("data"), Path("out"), **values)


def _plan(
    documents: int | np.ndarray,
    *,
    ranks: int = 1,
    micro: int = 1,
    steps: int = 1,
    turns: np.ndarray | None = None,
    **args: Any,
) -> Plan:
    values = _args(per_device_train_batch_size=micro, gradient_accumulation_steps=steps, **args)
    lengths = _lengths(documents) if isinstance(documents, int) else documents
    known = Documents.from_lengths(lengths)
    if turns is not None:
        known = replace(known, turns=turns)
    return Plan.of(values, known, ranks, CROSSOVER)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    num_documents=st.integers(1, 50),
    ranks=st.integers(1, 5),
    micro=st.integers(1, 4),
    steps=st.integers(1, 4),
    order=st.sampled_from(["random", "file", "length", "turns", "group_by_length"]),
    packing=st.booleans(),
)
def test_each_epoch_holds_every_document_once(
    num_documents: int, ranks: int, micro: int, steps: int, order: str, packing: bool
) -> None:
    plan = _plan(
        num_documents,
        ranks=ranks,
        micro=micro,
        steps=steps,
        num_train_epochs=2,
        disable_shuffling=order == "file",
        group_by_length=order == "group_by_length",
        curriculum=order if order in ("length", "turns") else "random",
        packing=packing,
    )
    capacity = micro * (100 if packing else np.inf)
    first = 1
    for epoch, last in enumerate(plan.epoch_ends):
        seen: list[int] = []
        for step in range(first, last + 1):
            micro_batches = [plan.micro_batches(step, rank) for rank in range(ranks)]
            assert all(len(of_rank) == steps for of_rank in micro_batches)
            for batch in (batch for of_rank in micro_batches for batch in of_rank):
                assert packing or len(batch) <= micro
                assert plan.documents.lengths[batch].sum() <= capacity
            of_step = [i for of_rank in micro_batches for batch in of_rank for i in batch]
            assert sorted(of_step) == sorted(plan.global_batch(step))
            seen += of_step
            assert plan.documents_until(step) == epoch * num_documents + len(seen)
        assert sorted(seen) == list(range(num_documents))
        assert plan.epoch_at(last) == epoch + 1
        first = last + 1
    assert plan.total_steps == first - 1


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize(("ranks", "micro", "steps"), [(1, 1, 8), (2, 2, 2), (4, 2, 1), (8, 1, 1)])
def test_any_number_of_ranks_sees_the_same_documents_at_every_step(
    ranks: int, micro: int, steps: int, packing: bool
) -> None:
    alone = _plan(129, micro=8, packing=packing)
    plan = _plan(129, ranks=ranks, micro=micro, steps=steps, packing=packing)
    assert plan.identity() == alone.identity()
    for step in range(1, plan.total_steps + 1):
        assert plan.global_batch(step) == alone.global_batch(step)


def test_order_differs_by_epoch_and_by_seed() -> None:
    def epoch(plan: Plan, number: int) -> list[int]:
        return plan.global_batch(number + 1)

    plan = _plan(40, micro=40)
    assert epoch(plan, 0) != epoch(plan, 1) != list(range(40))
    assert epoch(_plan(40, micro=40), 1) == epoch(plan, 1)
    assert epoch(_plan(40, micro=40, seed=1), 0) != epoch(plan, 0)
    assert epoch(_plan(40, micro=40, data_seed=1), 0) == epoch(_plan(40, micro=40, seed=1), 0)
    assert epoch(_plan(40, micro=40, disable_shuffling=True), 1) == list(range(40))


def test_packed_epochs_are_shuffled_too() -> None:
    plan = _plan(400, micro=4, packing=True)
    assert plan.global_batch(1) != plan.global_batch(plan.epoch_ends[0] + 1)
    longest = plan.epochs[0].maxima(plan.documents.lengths)
    assert np.abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.2


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"num_train_epochs": 2},
        {"packing": True},
        {"packing": True, "cutoff_len": 200},
        {"curriculum": "length"},
        {"group_by_length": True},
        {"micro": 2},
    ],
    ids=str,
)
def test_the_hash_tells_plans_apart(changes: dict[str, Any]) -> None:
    assert _plan(40).hash == _plan(40).hash
    assert _plan(40, **changes).hash != _plan(40).hash


def test_the_hash_depends_on_the_lengths() -> None:
    assert _plan(_lengths(9, seed=0)).hash != _plan(_lengths(9, seed=1)).hash


def test_last_batch_of_an_epoch_is_smaller_and_the_next_epoch_starts_afresh() -> None:
    plan = _plan(10, micro=4, num_train_epochs=2, disable_shuffling=True)
    assert [len(plan.global_batch(step)) for step in range(1, 7)] == [4, 4, 2, 4, 4, 2]
    assert plan.global_batch(4) == [0, 1, 2, 3]


def test_ranks_without_documents_in_a_small_batch_get_empty_micro_batches() -> None:
    plan = _plan(5, ranks=2, micro=2, disable_shuffling=True)
    assert [plan.micro_batches(2, rank) for rank in range(2)] == [[[4]], [[]]]


@pytest.mark.parametrize(
    ("args", "steps"),
    [
        ({"num_train_epochs": 3}, 9),
        ({"num_train_epochs": 0.5}, 2),
        ({"num_train_epochs": 1.5}, 5),
        ({"num_train_epochs": 3, "max_steps": 4}, 4),
        ({"num_train_epochs": 1, "max_steps": 100}, 100),
        ({"num_train_epochs": 1, "max_steps": 0}, 3),
    ],
)
def test_number_of_steps(args: dict[str, Any], steps: int) -> None:
    assert _plan(10, micro=4, **args).total_steps == steps


def test_the_best_rows_come_first_and_unknown_ones_last() -> None:
    scores = np.asarray([0.2, np.nan, 0.9, 0.5, np.nan, 0.9])
    documents = replace(Documents.from_lengths(_lengths(6)), scores=scores)
    args = _args(curriculum="score", num_train_epochs=20)
    epochs = [list(epoch.documents) for epoch in Plan.of(args, documents, 1, CROSSOVER).epochs]
    assert {tuple(sorted(epoch[:2])) for epoch in epochs} == {(2, 5)}
    assert {tuple(epoch[2:4]) for epoch in epochs} == {(3, 0)}
    assert len({tuple(epoch[:2]) for epoch in epochs}) == 2, "equals are shuffled"
    with pytest.raises(ConfigError, match="curriculum: score: no row has a _score; convert with"):
        Plan.of(_args(curriculum="score"), Documents.from_lengths(_lengths(6)), 1, CROSSOVER)


@pytest.mark.parametrize("key", ["length", "turns"])
def test_a_curriculum_rises_and_shuffles_equals(key: str) -> None:
    turns = np.random.default_rng(1).integers(1, 4, 60)
    plan = _plan(60, micro=1, curriculum=key, turns=turns)
    values = {"length": plan.documents.lengths, "turns": turns}[key]
    order = [plan.global_batch(step)[0] for step in range(1, 61)]
    assert np.all(np.diff(values[order]) >= 0)
    if key == "turns":
        again = [plan.global_batch(step)[0] for step in range(61, 121)]
        assert order != again
        assert list(turns[order]) == list(turns[again])


def test_a_packed_curriculum_rises_roughly() -> None:
    plan = _plan(4000, micro=1, curriculum="turns", packing=True, turns=np.arange(4000))
    means = [np.mean(plan.global_batch(step)) for step in range(1, plan.epoch_ends[0] + 1)]
    assert np.corrcoef(means, np.arange(len(means)))[0, 1] > 0.99


def test_group_by_length_puts_like_to_like_and_the_longest_first() -> None:
    def waste(plan: Plan) -> float:
        lengths = [plan.documents.lengths[plan.global_batch(s)] for s in range(1, 51)]
        return sum(int(batch.max()) * len(batch) - int(batch.sum()) for batch in lengths)

    grouped, mixed = _plan(400, micro=8, group_by_length=True), _plan(400, micro=8)
    assert waste(grouped) < 0.1 * waste(mixed)
    assert grouped.documents.lengths.max() in grouped.documents.lengths[grouped.global_batch(1)]
    medians = [np.median(grouped.documents.lengths[grouped.global_batch(s)]) for s in range(2, 51)]
    assert np.any(np.diff(medians) > 0), "the batches themselves are shuffled"


def test_best_fit_leaves_hardly_a_gap() -> None:
    lengths = _lengths(5000)
    packed = pack(np.arange(5000), lengths, capacity=1000, window=100)
    assert packed.sums(lengths).max() <= 1000
    assert lengths.sum() / (len(packed) * 1000) > 0.995
    assert packed.documents[: packed.bounds[50]].max() < 2500, "a window keeps to its part"


def test_spread_balances_by_cost_and_keeps_to_the_slots() -> None:
    costs = np.random.default_rng(0).lognormal(10, 1, 64).astype(np.int64)
    given = spread(costs, num_ranks=8, slots_per_rank=8)
    assert sorted(i for indices in given for i in indices) == list(range(64))
    assert {len(indices) for indices in given} == {8}
    loads = [costs[indices].sum() for indices in given]
    assert np.mean(loads) / max(loads) > 0.9
    in_order = costs.reshape(8, 8).sum(axis=1)
    assert np.mean(loads) / max(loads) > 1.2 * np.mean(in_order) / max(in_order)
    for indices in given:
        assert np.all(np.diff(costs[indices]) <= 0)


def test_ranks_get_documents_of_like_length_at_the_same_time() -> None:
    lengths = np.asarray([90, 3, 80, 2, 1, 70, 4, 60])
    plan = _plan(lengths, ranks=2, steps=4, disable_shuffling=True)
    together = [plan.micro_batches(1, 0), plan.micro_batches(1, 1)]
    first = sorted(int(lengths[batch[0]]) for batch in (of_rank[0] for of_rank in together))
    assert first == [80, 90]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("disable_shuffling: true", "group_by_length: true"),
        ("disable_shuffling: true", "curriculum: length"),
        ("group_by_length: true", "curriculum: turns"),
    ],
)
def test_contradicting_orders_are_refused_with_their_position(
    tmp_path: Path, first: str, second: str
) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(
        f"model_name_or_path: m\ndataset: d\ndataset_dir: .\noutput_dir: o\n{first}\n{second}\n"
    )
    keys = [line.split(":")[0] for line in (first, second)]
    with pytest.raises(ConfigError) as caught:
        load_train_args(file)
    assert (
        f"train.yaml:6:{len(keys[1]) + 3}: {keys[1]}: contradicts {keys[0]}: choose one of them"
        in str(caught.value)
    ), str(caught.value)


_SHAPE: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}


def _crossover(config: PretrainedConfig) -> int:
    with torch.device("meta"):
        return ModelFlops.of(AutoModelForCausalLM.from_config(config)).crossover_tokens


_ATTENTION = 64 * 128 + 2 * 64 * 64 + 128 * 64  # q, k and v, o
_MLP = 3 * 64 * 96


def test_crossover_is_the_length_at_which_attention_costs_as_much_as_the_rest() -> None:
    """By hand: 2 x parameters per token against 2 x layers x heads x head size x length."""
    for config in (Qwen3Config(**_SHAPE), LlamaConfig(**_SHAPE, tie_word_embeddings=True)):
        assert _crossover(config) == round((_ATTENTION + _MLP) / 128)


def test_crossover_counts_experts_in_use_and_bounded_windows() -> None:
    sparse = Qwen3MoeConfig(
        **_SHAPE, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=48
    )
    active = _ATTENTION + 2 * 3 * 64 * 48 + 8 * 64
    assert _crossover(sparse) == round(active / 128)
    windowed = MistralConfig(**_SHAPE, sliding_window=16)
    assert _crossover(windowed) > 10**8, "no layer grows with the document"
    mixed = Qwen3Config(
        **_SHAPE,
        use_sliding_window=True,
        sliding_window=16,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    )
    assert _crossover(mixed) == round((3 * (_ATTENTION + _MLP) + 4 * 128 * 16) / 128)


def test_layers_without_attention_count_as_linear() -> None:
    config = Qwen3NextConfig(
        **_SHAPE, layer_types=["linear_attention", "linear_attention", "full_attention"]
    )
    dense = Qwen3Config(**_SHAPE)
    assert _crossover(config) > _crossover(dense)
