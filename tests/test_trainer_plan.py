"""Property: every example once per epoch, in an order that no number of ranks changes.

Run: pytest tests/test_trainer_plan.py
"""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_runs import train_args

from pipeline.trainer.data.plan import Plan


def _plan(
    num_examples: int, *, ranks: int = 1, micro: int = 1, steps: int = 1, **args: Any
) -> Plan:
    values = train_args(
        Path("model"),
        Path("data"),
        Path("out"),
        **{
            "max_steps": -1,
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": steps,
            **args,
        },
    )
    return Plan.of(values, num_examples, ranks)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    num_examples=st.integers(1, 50),
    ranks=st.integers(1, 5),
    micro=st.integers(1, 4),
    steps=st.integers(1, 4),
    shuffle=st.booleans(),
)
def test_each_epoch_holds_every_example_once(
    num_examples: int, ranks: int, micro: int, steps: int, shuffle: bool
) -> None:
    plan = _plan(
        num_examples,
        ranks=ranks,
        micro=micro,
        steps=steps,
        num_train_epochs=2,
        disable_shuffling=not shuffle,
    )
    assert plan.total_steps == 2 * plan.steps_per_epoch
    for epoch in range(2):
        seen: list[int] = []
        for step in range(epoch * plan.steps_per_epoch + 1, (epoch + 1) * plan.steps_per_epoch + 1):
            micro_batches = [plan.micro_batches(step, rank) for rank in range(ranks)]
            assert all(len(of_rank) == steps for of_rank in micro_batches)
            assert all(len(batch) <= micro for of_rank in micro_batches for batch in of_rank)
            of_step = [i for of_rank in micro_batches for batch in of_rank for i in batch]
            assert sorted(of_step) == sorted(plan.global_batch(step))
            seen += of_step
            assert plan.examples_until(step) == epoch * num_examples + len(seen)
        assert sorted(seen) == list(range(num_examples))
    assert plan.epoch_at(plan.total_steps) == 2


@pytest.mark.parametrize(("ranks", "micro", "steps"), [(1, 1, 8), (2, 2, 2), (4, 2, 1), (8, 1, 1)])
def test_any_number_of_ranks_sees_the_same_global_batches(
    ranks: int, micro: int, steps: int
) -> None:
    alone = _plan(29, micro=8)
    plan = _plan(29, ranks=ranks, micro=micro, steps=steps)
    assert plan.total_steps == alone.total_steps
    for step in range(1, plan.total_steps + 1):
        assert plan.global_batch(step) == alone.global_batch(step)


def test_order_differs_by_epoch_and_by_seed() -> None:
    def epoch(plan: Plan, number: int) -> list[int]:
        return plan.global_batch(number * plan.steps_per_epoch + 1)

    plan = _plan(40, micro=40)
    assert epoch(plan, 0) != epoch(plan, 1) != list(range(40))
    assert epoch(_plan(40, micro=40), 1) == epoch(plan, 1)
    assert epoch(_plan(40, micro=40, seed=1), 0) != epoch(plan, 0)
    assert epoch(_plan(40, micro=40, data_seed=1), 0) == epoch(_plan(40, micro=40, seed=1), 0)
    assert epoch(_plan(40, micro=40, disable_shuffling=True), 1) == list(range(40))


def test_last_batch_of_an_epoch_is_smaller_and_the_next_epoch_starts_afresh() -> None:
    plan = _plan(10, micro=4, num_train_epochs=2, disable_shuffling=True)
    assert [len(plan.global_batch(step)) for step in range(1, 7)] == [4, 4, 2, 4, 4, 2]
    assert plan.global_batch(4) == [0, 1, 2, 3]


def test_ranks_without_examples_in_a_small_batch_get_empty_micro_batches() -> None:
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
