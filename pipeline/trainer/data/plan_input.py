"""What the plan knows about the documents of a run: numbers, no tokens."""

from dataclasses import dataclass

import numpy as np

from pipeline.errors import DataError
from pipeline.trainer.data.example_trees import ExampleTrees
from pipeline.trainer.data.holdout import held_out_rows


@dataclass(frozen=True)
class Documents:
    """One entry per example or tree of examples."""

    lengths: np.ndarray  # (documents,) int64, tokens
    attention: np.ndarray  # (documents,) int64, length x length where there are no branches
    turns: np.ndarray  # (documents,) int64, trained turns
    scores: np.ndarray  # (documents,) float64, what the row of each is worth; NaN: not known
    rows: np.ndarray  # (documents,) int64, the first row that each comes from
    all_rows: np.ndarray  # (rows,) int64, every row that some document comes from, rising
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
            all_rows=np.unique(data.store.rows),
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
            all_rows=np.arange(len(lengths)),
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


def divide(documents: Documents, val_size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The documents to train on and those to evaluate on, both in rising order.

    Raises: ConfigError: val_size leaves nothing to train on; DataError: nothing can be trained on,
        or nothing of a dataset evaluated.
    """
    first_evaluated = documents.num_trained_datasets
    if first_evaluated == len(documents.dataset_names):
        # Rows that share a tree are all held out, or none of them is.
        is_held_out = np.isin(documents.rows, held_out_rows(documents.all_rows, val_size, seed))
        return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
    trained = np.flatnonzero(documents.datasets < first_evaluated)
    if not len(trained):
        raise DataError("dataset: none of its rows can be trained on, only those of eval_dataset")
    for number, name in enumerate(documents.dataset_names):
        if number >= first_evaluated and number not in documents.datasets:
            raise DataError(f"eval_dataset: no row of {name!r} can be evaluated; leave it out")
    return trained, np.flatnonzero(documents.datasets >= first_evaluated)
