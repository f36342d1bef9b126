"""Pairs of stages dpo and rm: two continuations of a conversation, of which the first was better.

    {"conversations": [turns, up to the last input], "chosen": [turns], "rejected": [turns]}
      ->  examples of the chosen continuation, its turns weighing w;
          examples of the rejected one, its turns weighing -w

The sign of a loss weight tells the sides apart from here on, its size is the turn's weight. In
stage rm a side is one example, the last, and what weighs is the token that ends it.
"""

from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from pipeline.errors import DataError
from pipeline.preference_pairs import pair_sides
from pipeline.trainer.data.example import Example, Span
from pipeline.trainer.data.shard import Shard


class _Renderer(Protocol):
    def row_examples(self, row: dict[str, Any]) -> list[Example]: ...


class PairRenderer:
    """Renders both continuations as the conversations that they make."""

    def __init__(self, renderer: _Renderer, *, only_ends: bool) -> None:
        self._renderer = renderer
        self._only_ends = only_ends

    def row_examples(self, row: dict[str, Any]) -> list[Example]:
        """The examples of the chosen continuation, then those of the rejected one.

        Raises: DataError: the row is no such pair, a side has nothing that carries loss, or it
            cannot be rendered.
        """
        if "conversations" not in row:
            raise DataError("conversations: missing; the stage trains on pairs (ranking: true)")
        chosen, rejected = pair_sides(row)
        negated = [_negated(example) for example in self._side(rejected, "rejected")]
        return self._side(chosen, "chosen") + negated

    def _side(self, conversation: dict[str, Any], name: str) -> list[Example]:
        try:
            examples = self._renderer.row_examples(conversation)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        if not examples:
            raise DataError(f"{name}: no turn of it carries loss")
        return [_end_of(examples[-1])] if self._only_ends else examples


def _end_of(example: Example) -> Example:
    length = len(example.ids)
    return Example(example.ids, [Span(length - 1, length, 1.0)])


def _negated(example: Example) -> Example:
    return Example(example.ids, [replace(span, weight=-span.weight) for span in example.spans])


def whole_pairs(documents: np.ndarray) -> np.ndarray:
    """Those of the documents whose row still has both sides."""
    is_rejected = documents["loss_weight"] < 0
    rows, place = np.unique(documents["row"], return_inverse=True)
    has_side = np.zeros((2, len(rows)), dtype=bool)
    has_side[is_rejected.astype(int), place] = True
    return documents[(has_side[0] & has_side[1])[place]]


def with_sides_apart(shard: Shard, documents: np.ndarray) -> np.ndarray:
    """The documents of whole pairs, of which the two sides share no token that either trains.

    A reply may begin like the other one: these tokens count for each.
    """
    apart = documents.copy()
    is_rejected = apart["loss_weight"] < 0
    meets = np.flatnonzero(is_rejected[1:] & ~is_rejected[:-1]) + 1
    untrained = shard.span_starts[apart["first_span"]] - apart["start"]
    limit = np.minimum(untrained[meets], untrained[meets - 1])
    apart["shared"][meets] = np.minimum(apart["shared"][meets], limit)
    return apart
