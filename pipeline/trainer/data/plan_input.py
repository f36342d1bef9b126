"""What the plan knows about the documents of a token store: numbers, no tokens."""

from dataclasses import dataclass

import numpy as np

from pipeline.trainer.data.store import TokenStore


@dataclass(frozen=True)
class Documents:
    """One entry per example of the store."""

    lengths: np.ndarray  # (documents,) int64, tokens
    turns: np.ndarray  # (documents,) int64, trained turns
    scores: np.ndarray  # (documents,) float64, what the row of each is worth; NaN: not known
    rows: np.ndarray  # (documents,) int64, the row that each comes from, rising
    datasets: np.ndarray  # (documents,) int64, the number of the dataset of each, rising
    dataset_names: tuple[str, ...]
    num_trained_datasets: int
    """Datasets from this number on are only evaluated."""

    @classmethod
    def of(cls, store: TokenStore) -> "Documents":
        return cls(
            lengths=store.lengths,
            turns=store.turns,
            scores=store.scores,
            rows=store.rows,
            datasets=store.datasets,
            dataset_names=tuple(store.dataset_names),
            num_trained_datasets=store.num_trained_datasets,
        )

    @classmethod
    def from_lengths(cls, lengths: np.ndarray) -> "Documents":
        """One document of one turn per row of one dataset."""
        return cls(
            lengths=lengths,
            turns=np.ones_like(lengths),
            scores=np.full(len(lengths), np.nan),
            rows=np.arange(len(lengths)),
            datasets=np.zeros(len(lengths), dtype=np.int64),
            dataset_names=("demo",),
            num_trained_datasets=1,
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def costs(self, crossover_tokens: int) -> np.ndarray:
        """Compute per document, in a unit of its own: linear in tokens plus attention.

        `crossover_tokens` is the length at which attention costs as much as everything else.
        """
        return self.lengths * (crossover_tokens + self.lengths)
