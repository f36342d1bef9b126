"""Ids, labels and weights of one training sequence: as it is shown, and as a micro-batch holds it.

The second is read back from the tensors that the model is given, without looking at the store, so
that comparing both finds a label that is shifted, masked, lost, or in another document.
"""

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.trainer.data.collate import IGNORE_INDEX, MicroBatch
from pipeline.trainer.data.example import Example


@dataclass(frozen=True)
class Sequence:
    """One document. Labels stand at the token that is predicted, not at the one before it."""

    ids: np.ndarray  # (tokens,) int64
    labels: np.ndarray  # (tokens,) int64: the id where the token carries loss, else IGNORE_INDEX
    weights: np.ndarray  # (tokens,) float32

    @classmethod
    def of(cls, example: Example) -> "Sequence":
        ids = np.asarray(example.ids, dtype=np.int64)
        labels = np.full_like(ids, IGNORE_INDEX)
        weights = np.zeros(len(ids), dtype=np.float32)
        for span in example.spans:
            place = slice(max(span.start, 1), span.end)  # nothing predicts the first token
            labels[place] = ids[place]
            weights[place] = span.weight
        return cls(ids, labels, weights)

    def digest(self) -> str:
        """SHA-256 of ids, labels (int64) and weights (float32)."""
        content = hashlib.sha256(self.ids.astype("<i8").tobytes())
        content.update(self.labels.astype("<i8").tobytes())
        content.update(self.weights.astype("<f4").tobytes())
        return content.hexdigest()


def sequences_of(batch: MicroBatch) -> list[Sequence]:
    """The documents of a micro-batch, in its order.

    A label behind the last token, on padding, makes its document longer than it is.
    """
    ids = batch.input_ids.numpy()
    # One more place than tokens: labels of the last position, if there are any, stay visible.
    labels = np.full((ids.shape[0], ids.shape[1] + 1), IGNORE_INDEX, dtype=np.int64)
    weights = np.zeros(labels.shape, dtype=np.float32)
    predicted = batch.positions.numpy() + 1
    labels[:, predicted] = batch.labels.numpy()
    weights[:, predicted] = batch.weights.numpy()
    sequences = []
    for row, bounds in enumerate(_bounds(batch)):
        last = np.flatnonzero(labels[row] != IGNORE_INDEX).max(initial=-1)
        bounds[-1] = max(bounds[-1], int(last) + 1)
        places = [slice(*place) for place in pairwise(bounds)]
        sequences += [Sequence(ids[row, p], labels[row, p], weights[row, p]) for p in places]
    return sequences


def _bounds(batch: MicroBatch) -> list[list[int]]:
    """By row of the batch: where its documents begin, and where the last one ends."""
    if batch.boundaries is not None:
        return [batch.boundaries.tolist()]
    if batch.attention_mask is None:
        return [[0, batch.input_ids.shape[1]] for _ in batch.input_ids]
    return [[0, int(length)] for length in batch.attention_mask.sum(dim=1)]
