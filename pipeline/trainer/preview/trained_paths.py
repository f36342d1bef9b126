"""What documents train, however their tokens are laid out: weights by the path to each token.

Made of examples, and read back from the tensors that the model is given without looking at the
store, so that comparing both finds a token, a position, a branch, a label or a weight that is
another one.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from pipeline.trainer.data.collate import IGNORE_INDEX, MicroBatch
from pipeline.trainer.data.example import Example
from pipeline.trainer.data.prefix_tree import Segment

_BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class TrainedPaths:
    """Of one document; a token that several examples train counts once, with all their weight."""

    paths: np.ndarray  # (trained tokens,) uint64, rising: hash of a token and all before it
    weights: np.ndarray  # (trained tokens,) float32

    @classmethod
    def of(cls, examples: list[Example]) -> "TrainedPaths":
        paths, weights = [np.empty(0, dtype=np.uint64)], [np.empty(0)]
        for example in examples:
            ids = np.asarray(example.ids, dtype=np.int64)
            hashes = np.cumsum(_terms(ids, np.arange(len(ids))), dtype=np.uint64)
            for span in example.spans:
                # Nothing predicts the first token.
                found = hashes[max(span.start, 1) : span.end]
                paths.append(found)
                weights.append(np.full(len(found), span.weight))
        return cls._summed(np.concatenate(paths), np.concatenate(weights))

    @classmethod
    def of_batch(cls, batch: MicroBatch) -> list["TrainedPaths"]:
        """One for each document, in the order of the batch."""
        if batch.segments is None or batch.position_ids is None or batch.boundaries is None:
            length = batch.input_ids.shape[1]
            segments, depths = (Segment(0, length),), np.arange(length)
            bounds = np.array([0, length])
        else:
            segments, depths = batch.segments, batch.position_ids[0].numpy()
            bounds = batch.boundaries.numpy()
        positions = batch.positions.numpy()
        document = np.searchsorted(bounds, positions, side="right") - 1
        found = []
        for ids, labels, weights in zip(
            batch.input_ids.numpy(), batch.labels.numpy(), batch.weights.numpy(), strict=True
        ):
            hashes = _path_hashes(_terms(ids, depths), segments)
            trained = hashes[positions] + _terms(labels, depths[positions] + 1)
            is_label = labels != IGNORE_INDEX
            for number in range(len(bounds) - 1):
                chosen = is_label & (document == number)
                found.append(cls._summed(trained[chosen], weights[chosen]))
        return found

    @classmethod
    def _summed(cls, paths: np.ndarray, weights: np.ndarray) -> "TrainedPaths":
        distinct, places = np.unique(paths, return_inverse=True)
        sums = np.bincount(places, weights, minlength=len(distinct))
        return cls(distinct, sums.astype(np.float32))

    def digest(self) -> str:
        """SHA-256 of both."""
        content = hashlib.sha256(self.paths.astype("<u8").tobytes())
        content.update(self.weights.astype("<f4").tobytes())
        return content.hexdigest()


def _terms(ids: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """(n,) uint64: what each token adds to the hash of a path; a polynomial modulo 2 ** 64."""
    powers = np.cumprod(np.full(int(depths.max(initial=0)) + 1, _BASE, dtype=np.uint64))
    return (ids.astype(np.uint64) + np.uint64(1)) * powers[depths]


def _path_hashes(terms: np.ndarray, segments: tuple[Segment, ...]) -> np.ndarray:
    """(n,) uint64: sum of the terms of each token and its ancestors."""
    hashes = np.zeros(len(terms), dtype=np.uint64)
    for start, end, ancestors in segments:
        before = np.sum([terms[slice(*place)].sum() for place in ancestors], dtype=np.uint64)
        hashes[start:end] = np.cumsum(terms[start:end], dtype=np.uint64) + before
    return hashes
