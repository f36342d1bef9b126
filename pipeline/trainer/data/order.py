"""In which order an epoch brings the documents, and what of it packing may change."""

from typing import Literal

import numpy as np

from pipeline.errors import ConfigError
from pipeline.trainer.data.packing import Sequences, pack
from pipeline.trainer.data.plan_input import Documents

Curriculum = Literal["random", "file", "length", "turns", "score"]

_WIDE, _NARROW = 4096, 64
"""Sequences that are packed together: 64 fill all but about one percent of the budget, 4,096 all
but a few thousandths."""
_GROUPED_BATCHES = 50
"""Global batches that `group_by_length` sorts together, as Transformers has it."""


def epoch_sequences(
    documents: Documents,
    chosen: np.ndarray,
    curriculum: Curriculum,
    capacity: int | None,
    draw: np.random.Generator,
) -> Sequences:
    """One epoch of the `chosen` documents, which may repeat.

    Each is in a sequence of at most `capacity` tokens; without `capacity`, every one is a sequence.
    `draw` decides the order (random), or that of equals (length, turns, score).
    """
    order = _order(documents, chosen, curriculum, draw)
    if capacity is None:
        return Sequences.one_each(order)
    if curriculum == "random":
        packed = pack(order, documents.lengths, capacity, _WIDE)
        return packed.taken(draw.permutation(len(packed)))
    places = np.arange(len(order))  # of a document that is repeated, all
    packed = pack(places, documents.lengths[order], capacity, _NARROW)
    means = packed.sums(places) / np.diff(packed.bounds)
    packed = packed.taken(np.argsort(means, kind="stable"))
    return Sequences(order[packed.documents], packed.bounds)


def grouped_by_length(
    sequences: Sequences, documents: Documents, global_batch: int, draw: np.random.Generator
) -> Sequences:
    """Global batches of sequences of similar length, in random order.

    The batch with the longest document comes first: if memory is short, it shows at once.
    """
    longest = sequences.maxima(documents.lengths)
    window = _GROUPED_BATCHES * global_batch
    windows = np.split(np.arange(len(sequences)), range(window, len(sequences), window))
    order = np.concatenate([part[np.argsort(-longest[part], kind="stable")] for part in windows])
    num_full = len(order) // global_batch
    if num_full == 0:
        return sequences.taken(order)
    full = order[: num_full * global_batch].reshape(num_full, global_batch)
    full = full[draw.permutation(num_full)]
    first = int(np.argmax(longest[full].max(axis=1)))
    full[[0, first]] = full[[first, 0]]
    return sequences.taken(np.concatenate([full.ravel(), order[full.size :]]))


def _order(
    documents: Documents, chosen: np.ndarray, curriculum: Curriculum, draw: np.random.Generator
) -> np.ndarray:
    if curriculum == "file":
        return chosen
    order = draw.permutation(chosen)
    if curriculum == "random":
        return order
    keys = {
        "length": documents.lengths,
        "turns": documents.turns,
        "score": -documents.scores,  # NaN is sorted to the end
    }[curriculum]
    if curriculum == "score" and np.isnan(keys[order]).all():
        raise ConfigError(
            "curriculum: score: no row has a _score; convert with conversion.scores, or write one "
            "into every row"
        )
    return order[np.argsort(keys[order], kind="stable")]
