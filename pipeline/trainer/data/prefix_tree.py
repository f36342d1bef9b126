"""Examples that begin alike as one sequence of tokens, in which what they share stands once.

    examples, in this order      laid out as             segments [start, end), behind
    a b c                       a b d e f | d' | c      [0, 5)
    a b d d'                                            [5, 6)  a b d
    a b d e f                                           [6, 7)  a b

The last example stands whole; every one before it adds, as a segment, what it does not share with
the one behind it. So a conversation whose turns are branches off a growing history has that history
in one piece. A token attends to its own segment up to itself and to the ancestors of the segment;
its position is its depth. So losses and gradients are those of the separate examples; where several
train the same token, their weights add.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.trainer.data.example import Example

TokenRange = tuple[int, int]
"""[start, end) of a sequence."""


class Segment(NamedTuple):
    """Tokens [start, end) of a sequence, one behind the other."""

    start: int
    end: int
    ancestors: tuple[TokenRange, ...] = ()
    """What stands before the segment on its path, from the root on."""

    def moved(self, by: int) -> "Segment":
        ancestors = tuple((start + by, end + by) for start, end in self.ancestors)
        return Segment(self.start + by, self.end + by, ancestors)


class LossSpans(NamedTuple):
    """The loss spans of one example, in its tokens."""

    starts: np.ndarray
    ends: np.ndarray
    weights: np.ndarray


class Branch(NamedTuple):
    """One example of a tree."""

    shared: int
    """Tokens at its beginning that are those of the next example; 0 for the last one."""
    ids: np.ndarray
    """Its tokens behind those."""
    spans: LossSpans


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """T tokens, N of which are trained."""

    ids: np.ndarray  # (T,)
    depths: np.ndarray  # (T,) tokens before each on its path
    ranks: np.ndarray  # (T,) its number in preorder: ancestors first, branches one by one
    ends: np.ndarray  # (T,) the first rank behind its descendants
    segments: tuple[Segment, ...]
    """They cover the tokens, in order."""
    predictors: np.ndarray  # (N,) tokens whose output predicts a trained one; rising, may repeat
    targets: np.ndarray  # (N,) the trained tokens, in the order of their predictors
    labels: np.ndarray  # (N,) the trained ids
    weights: np.ndarray  # (N,) float64

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "PrefixTree":
        """The tree of one or several examples, each sharing what it can with the next."""
        ids = [np.asarray(example.ids, dtype=np.int64) for example in examples]
        shared = [common_prefix(one, other) for one, other in zip(ids, ids[1:], strict=False)]
        return cls.grow(
            [
                Branch(begin, tokens[begin:], _loss_spans(example))
                for begin, tokens, example in zip([*shared, 0], ids, examples, strict=True)
            ]
        )

    @classmethod
    def grow(cls, branches: Sequence[Branch]) -> "PrefixTree":
        """The tree of examples whose common beginnings are known."""
        paths, segments = _lay_out(branches)
        size = segments[-1].end
        parents = np.arange(-1, size - 1)
        depths = np.arange(size)
        for segment in segments:
            depth = sum(end - start for start, end in segment.ancestors)
            depths[segment.start : segment.end] += depth - segment.start
            parents[segment.start] = segment.ancestors[-1][1] - 1 if segment.ancestors else -1
        weights, is_trained = np.zeros(size), np.zeros(size, dtype=bool)
        for branch, path in zip(branches, paths, strict=True):
            for start, end, weight in zip(*branch.spans, strict=True):
                # Nothing predicts the first token of a example.
                for piece in _pieces(path, max(int(start), 1), int(end)):
                    weights[slice(*piece)] += weight
                    is_trained[slice(*piece)] = True
        trained = np.flatnonzero(is_trained)
        trained = trained[np.argsort(parents[trained], kind="stable")]
        ids = np.concatenate([branch.ids for branch in reversed(branches)]).astype(np.int64)
        return cls(
            ids,
            depths,
            *_preorder([branch.shared for branch in branches], paths, size),
            tuple(segments),
            predictors=parents[trained],
            targets=trained,
            labels=ids[trained],
            weights=weights[trained],
        )

    def __len__(self) -> int:
        return len(self.ids)


def common_prefix(one: np.ndarray, other: np.ndarray) -> int:
    """How many ids at the beginning are the same."""
    shorter = min(len(one), len(other))
    differs = one[:shorter] != other[:shorter]
    return int(differs.argmax()) if differs.any() else shorter


def _loss_spans(example: Example) -> LossSpans:
    columns = [(span.start, span.end, span.weight) for span in example.spans]
    starts, ends, weights = np.array(columns, dtype=np.float64).reshape(-1, 3).T
    return LossSpans(starts.astype(np.int64), ends.astype(np.int64), weights)


_Path = tuple[TokenRange, ...]
"""The tokens of one example, as ranges of the tree."""


def _lay_out(branches: Sequence[Branch]) -> tuple[list[_Path], list[Segment]]:
    """Returns: the path of every branch, and the segments."""
    paths: list[_Path] = []
    segments: list[Segment] = []
    path: _Path = ()
    size = 0
    for branch in reversed(branches):
        ancestors = tuple(_pieces(path, 0, branch.shared))
        path = ancestors
        if len(branch.ids):
            own = (size, size + len(branch.ids))
            segments.append(Segment(*own, ancestors))
            path, size = (*ancestors, own), own[1]
        paths.append(path)
    return paths[::-1], segments


def _preorder(shared: list[int], paths: list[_Path], size: int) -> tuple[np.ndarray, np.ndarray]:
    """(T,) rank of every token, and (T,) the first rank behind its descendants."""
    ranks, ends = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
    rank, before = 0, ()
    for common, path in zip([0, *shared[:-1]], paths, strict=True):
        for start, end in _pieces(before, common, size):
            ends[start:end] = rank  # the path leaves these tokens for good
        for start, end in _pieces(path, common, size):
            ranks[start:end] = np.arange(rank, rank + end - start)
            rank += end - start
        before = path
    for start, end in before:
        ends[start:end] = rank
    return ranks, ends


def _pieces(path: _Path, first: int, last: int) -> Iterator[TokenRange]:
    """Where tokens [first, last) of a path lie in the tree."""
    depth = 0
    for start, end in path:
        low, high = max(first - depth, 0), min(last - depth, end - start)
        if low < high:
            yield start + low, start + high
        depth += end - start
