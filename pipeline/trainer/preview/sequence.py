"""Ids, labels and weights of one example, as it is shown."""

import hashlib
from dataclasses import dataclass

import numpy as np

from pipeline.trainer.data.collate import IGNORE_INDEX
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
