"""One list of rows of several datasets, in the proportions that `mix_strategy` asks for.

The same rows in the same order as `datasets.interleave_datasets` gives for the same lengths,
probabilities and seed, which is what LLaMA-Factory calls.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.errors import DataError
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.packing import Sequences
from pipeline.trainer.data.plan_input import Documents
from pipeline.trainer.keys.data import MixStrategy

_BLOCK = 1000
"""Draws at a time; part of what a seed means."""


def mixed(documents: Documents, trained: np.ndarray, args: TrainArgs) -> np.ndarray:
    """The `trained` documents, which are in rising order, as `mix_strategy` says: all, or rows of
    the datasets in turn, some of them repeated or left out. Only rows with documents count.

    Raises: DataError: a dataset that rows are to be taken from has none.
    """
    if args.mix_strategy == "concat":
        return trained
    starts = np.flatnonzero(np.diff(documents.rows[trained], prepend=-1))
    names = documents.dataset_names[: documents.num_trained_datasets]
    num_rows = np.bincount(documents.datasets[trained[starts]], minlength=len(names)).tolist()
    for name, count in zip(names, num_rows, strict=True):
        if count == 0:
            raise DataError(
                f"mix_strategy: no row of dataset {name!r} can be trained on; leave it out"
            )
    order = mix(num_rows, args.mix_strategy, args.interleave_probabilities, args.seed)
    return Sequences(trained, np.append(starts, len(trained))).taken(order).documents


def mix(
    lengths: Sequence[int],
    strategy: MixStrategy,
    probabilities: Sequence[float] | None,
    seed: int,
) -> np.ndarray:
    """Rows of datasets with `lengths` rows each, none of them empty, one dataset after the other.

    Returns: (rows of the mix,) int64, numbers of the rows of all datasets in one count.
    """
    if strategy == "concat":
        return np.arange(sum(lengths))
    is_under = strategy == "interleave_under"
    if probabilities is None:
        rounds = min(lengths) if is_under else max(lengths)
        draws = np.tile(np.arange(len(lengths)), rounds)
    else:
        draws = _draws(np.asarray(lengths), probabilities, is_under, seed)
    rows = np.empty(len(draws), dtype=np.int64)
    keeps = np.ones(len(draws), dtype=bool)
    first = 0
    for number, length in enumerate(lengths):
        places = np.flatnonzero(draws == number)
        rows[places] = first + np.arange(len(places)) % length
        if strategy == "interleave_once":
            keeps[places[length:]] = False
        first += length
    return rows[keeps]


def _draws(
    lengths: np.ndarray, probabilities: Sequence[float], is_under: bool, seed: int
) -> np.ndarray:
    """Numbers of datasets, up to the draw with which the first (under) or the last is used up."""
    draw = np.random.default_rng(seed)
    blocks: list[np.ndarray] = []
    counts = np.zeros(len(lengths), dtype=np.int64)
    while not (counts >= lengths).any() if is_under else not (counts >= lengths).all():
        blocks.append(draw.choice(len(lengths), size=_BLOCK, p=probabilities))
        counts += np.bincount(blocks[-1], minlength=len(lengths))
    draws = np.concatenate(blocks)
    used_up = [
        np.flatnonzero(draws == number)[length - 1]
        for number, length in enumerate(lengths)
        if counts[number] >= length
    ]
    return draws[: (min(used_up) if is_under else max(used_up)) + 1]
