"""What the plan knows about the documents of a run: numbers, no tokens."""

from dataclasses import dataclass

import numpy as np

from pipeline.trainer.data.example_trees import ExampleTrees


@dataclass(frozen=True)
class Documents:
    """One entry per example or tree of examples."""

    lengths: np.ndarray  # (documents,) int64, tokens
    attention: np.ndarray  # (documents,) int64, length x length where there are no branches
    turns: np.ndarray  # (documents,) int64, trained turns
    scores: np.ndarray  # (documents,) float64, what the row of each is worth; NaN: not known
    rows: np.ndarray  # (documents,) int64, the row that each comes from, rising
    datasets: np.ndarray  # (documents,) int64, the number of the dataset of each, rising
    dataset_names: tuple[str, ...]
    num_trained_datasets: int
    """Datasets from this number on are only evaluated."""

    @classmethod
    def of(cls, data: ExampleTrees) -> "Documents":
        return cls(
            lengths=data.lengths,
            attention=data.attention,
            turns=data.turns,
            scores=data.scores,
            rows=data.rows,
            datasets=data.datasets,
            dataset_names=tuple(data.store.dataset_names),
            num_trained_datasets=data.store.num_trained_datasets,
        )

    @classmethod
    def from_lengths(cls, lengths: np.ndarray) -> "Documents":
        """One document of one turn per row of one dataset."""
        return cls(
            lengths=lengths,
            attention=lengths * lengths,
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
        return self.lengths * crossover_tokens + self.attention
