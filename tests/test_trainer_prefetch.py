"""Property: micro-batches come in order, one is made ahead, and an error reaches the loop.

Run: pytest tests/test_trainer_prefetch.py
"""

import threading

import pytest
import torch

from pipeline.errors import DataError
from pipeline.trainer.data.collate import MicroBatch, collate
from pipeline.trainer.data.example import Example, Span
from pipeline.trainer.data.prefetch import prefetch

_CPU = torch.device("cpu")


def _batch(indices: list[int]) -> MicroBatch:
    return collate([Example([*indices, 7], [Span(1, 2, 1.0)])], pad_token_id=0)


def test_the_next_one_is_made_while_this_one_is_in_use() -> None:
    made = {number: threading.Event() for number in range(4)}

    def make(indices: list[int]) -> MicroBatch:
        made[indices[0]].set()
        return _batch(indices)

    batches = prefetch(make, ([number] for number in range(4)), _CPU)
    for number in range(4):
        assert next(batches).input_ids.tolist() == [[number, 7]]
        assert number == 3 or made[number + 1].wait(10)
        assert number > 1 or not made[number + 2].is_set()
    assert next(batches, None) is None


def test_an_error_is_raised_where_the_batch_is_used() -> None:
    def make(indices: list[int]) -> MicroBatch:
        if indices == [1]:
            raise DataError("row 1 cannot be read")
        return _batch(indices)

    batches = prefetch(make, [[0], [1], [2]], _CPU)
    next(batches)
    with pytest.raises(DataError, match="row 1 cannot be read"):
        next(batches)


def test_nothing_to_make_is_nothing() -> None:
    assert list(prefetch(_batch, [], _CPU)) == []
