"""The documents of a run: the examples of a token store, each alone or in trees.

    neighbours  1 2 3 4 5   --share_prefixes-->   documents  (1 2 3) (4 5)

Examples that begin alike, one behind the other, are one document, as many as together need at most
`cutoff_len` tokens. Which ones are neighbours, those of a row or of a dataset: neighbours.py. Of
pairs, all examples of a row are one document.
"""

from functools import cached_property

import numpy as np

from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.example import Example
from pipeline.trainer.data.holdout import held_out_rows
from pipeline.trainer.data.neighbours import Neighbours, across_rows, separate, within_rows
from pipeline.trainer.data.prefix_tree import Branch, PrefixTree
from pipeline.trainer.data.store import TokenStore


class ExampleTrees:
    """A store as a plan deals it out. The numbers of the documents are those of the plan."""

    def __init__(self, store: TokenStore, neighbours: Neighbours) -> None:
        self.store = store
        self._order = neighbours.examples
        self._lengths = store.lengths[self._order]
        self._shared = neighbours.shared.copy()
        if store.holds_pairs:
            self._bounds = np.append(np.flatnonzero(np.diff(store.rows, prepend=-1)), len(store))
        else:
            self._bounds = _group(self._lengths, self._shared, store.parameters["cutoff_len"])
        self._shared[self._bounds[:-1]] = 0

    @classmethod
    def of(cls, args: TrainArgs, store: TokenStore) -> "ExampleTrees":
        """As `share_prefixes` says, which is decided; held out rows are in trees of their own.

        Raises: ConfigError: val_size leaves nothing to train on.
        """
        if not args.share_prefixes:
            return cls(store, separate(store))
        if args.share_prefixes == "dataset":
            held_out = held_out_rows(store.rows, args.val_size, args.seed)
            return cls(store, across_rows(store, held_out))
        return cls(store, within_rows(store))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def num_examples(self, documents: np.ndarray) -> int:
        """Of all these documents together."""
        return int(np.diff(self._bounds)[documents].sum())

    def examples(self, document: int) -> list[Example]:
        """One that is alone, or those that share a tree."""
        return [self.store[example] for example in self._examples(document).tolist()]

    def examples_with_rows(self, document: int) -> list[tuple[int, Example]]:
        """As `examples`, each behind the row of its dataset that it comes from."""
        examples = self._examples(document).tolist()
        return [(self.store.row(example), self.store[example]) for example in examples]

    def tree(self, document: int) -> PrefixTree:
        """Its examples, every shared token once."""
        first, last = self._bounds[document : document + 2].tolist()
        shared = [*self._shared[first + 1 : last].tolist(), 0]
        return PrefixTree.grow(
            [
                Branch(begin, *self.store.rest(example, begin))
                for example, begin in zip(self._examples(document).tolist(), shared, strict=True)
            ]
        )

    def rows_of(self, document: int) -> list[int]:
        """The rows of its dataset that it comes from, counted from 0, rising."""
        return sorted({self.store.row(example) for example in self._examples(document).tolist()})

    def dataset(self, document: int) -> str:
        """Name of the dataset that it comes from."""
        return self.store.dataset(int(self._examples(document)[0]))

    def num_tokens(self, document: int) -> int:
        return int(self.lengths[document])

    def loss_weight(self, document: int) -> float:
        """Sum of the loss weights over the tokens of all its examples; a pair counts 1."""
        if self.store.holds_pairs:
            return 1.0
        return sum(map(self.store.loss_weight, self._examples(document).tolist()))

    @property
    def example_tokens(self) -> np.ndarray:
        """(documents,) tokens of its examples, shared ones as often as they are shared."""
        return self._sums(self._lengths)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(documents,) tokens that are computed"""
        return self._sums(self._lengths - self._shared)

    @property
    def attention(self) -> np.ndarray:
        """(documents,) twice the pairs of tokens that attend to each other; of one example alone
        the square of its length."""
        return self._sums(self._lengths**2 - self._shared**2)

    @property
    def trained_tokens(self) -> np.ndarray:
        """(documents,) tokens of its examples that carry loss"""
        return self._sums(self.store.documents["trained_tokens"].astype(np.int64))

    @property
    def turns(self) -> np.ndarray:
        """(documents,) loss spans"""
        return self._sums(self.store.turns[self._order])

    @property
    def scores(self) -> np.ndarray:
        """(documents,) what the first row of each is worth; NaN: it has no score"""
        return self.store.scores[self._first]

    @property
    def rows(self) -> np.ndarray:
        """(documents,) a number for the first row of each, different for every dataset"""
        return self.store.rows[self._first]

    @property
    def datasets(self) -> np.ndarray:
        """(documents,) the place of the dataset of each in `store.dataset_names`"""
        return self.store.datasets[self._first]

    @property
    def _first(self) -> np.ndarray:
        """(documents,) the first example of each"""
        return self._order[self._bounds[:-1]]

    def _examples(self, document: int) -> np.ndarray:
        return self._order[self._bounds[document] : self._bounds[document + 1]]

    def _sums(self, values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, self._bounds[:-1])


def has_shared_prefixes(store: TokenStore) -> bool:
    """Whether some example begins like the one before it in its row."""
    return bool(store.documents["shared"].any())


def _group(lengths: np.ndarray, shared: np.ndarray, capacity: int) -> np.ndarray:
    """(trees + 1,) the place of the first example of every tree, and at last their number.

    A tree goes on while examples share something with the one before, up to `capacity` tokens. No
    example alone exceeds those.
    """
    first = np.flatnonzero(shared == 0)
    bounds = np.append(first, len(lengths))
    sizes = np.add.reduceat(lengths - shared, first)
    too_large = sizes > capacity
    cuts: list[int] = []
    for start, end in zip(bounds[:-1][too_large], bounds[1:][too_large], strict=True):
        size = 0
        for example in range(start, end):
            size += int(lengths[example] - shared[example])
            if size > capacity:
                cuts.append(example)
                size = int(lengths[example])
    return np.union1d(bounds, np.array(cuts, dtype=bounds.dtype))
