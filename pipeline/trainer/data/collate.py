"""Examples, or trees of them, to the tensors of one micro-batch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch

from pipeline.trainer.data.example import Example
from pipeline.trainer.data.prefix_tree import PrefixTree, Segment

IGNORE_INDEX = -100


@dataclass
class MicroBatch:
    """B sequences of S tokens; K positions of which the logits are needed.

    Either every example is a sequence, padded on the right, or documents (trees of one example or
    several) lie in one sequence, one after the other (B = 1).
    """

    input_ids: torch.Tensor  # (B, S)
    attention_mask: torch.Tensor | None  # (B, S); None when nothing is padded
    position_ids: torch.Tensor | None  # (1, S), from 0 in every document; None: padded
    boundaries: torch.Tensor | None  # (documents + 1,) int32, from 0 to S; None: padded
    longest_document: int | None
    """The largest step of `boundaries`, on the host."""
    segments: tuple[Segment, ...] | None
    """Of the sequence, in order, which they cover; None: padded."""
    preorder: torch.Tensor | None  # (2, S) int32, ranks and ends of PrefixTree; None: no branches
    positions: torch.Tensor  # (K,) in rising order, shared by all sequences; branches repeat some
    labels: torch.Tensor  # (B, K), IGNORE_INDEX where this sequence predicts nothing there
    weights: torch.Tensor  # (B, K)
    num_tokens: int
    """Real tokens, padding not counted."""
    pairs: torch.Tensor | None = None  # (K,) of pairs: number of the pair that each label is of
    references: torch.Tensor | None = None  # (pairs, 2) log likelihoods before the training
    cache: Any = None
    """Keys and values of the tokens before, of transformers; the forward pass adds its own."""

    def to(self, device: torch.device) -> "MicroBatch":
        """Without waiting for the copies."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "MicroBatch":
        """In memory that a device reads by itself."""
        return self._with_tensors(torch.Tensor.pin_memory)

    def _with_tensors(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "MicroBatch":
        tensors = {
            name: change(value)
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor)
        }
        return replace(self, **tensors)


def collate(examples: list[Example], pad_token_id: int) -> MicroBatch:
    """Pad to the longest example and select the positions whose next token is trained.

    No example at all gives one pad token that carries no loss: a rank without data must still run
    the collective operations of the others.
    """
    length = max((len(example.ids) for example in examples), default=1)
    rows = max(len(examples), 1)
    input_ids = torch.full((rows, length), pad_token_id, dtype=torch.long)
    targets = torch.full((rows, length), IGNORE_INDEX, dtype=torch.long)
    weights = torch.zeros((rows, length), dtype=torch.float32)
    mask = torch.zeros((rows, length), dtype=torch.long)
    for row, example in enumerate(examples):
        stop = len(example.ids)
        mask[row, :stop] = 1
        _write(example, input_ids[row, :stop], targets[row, :stop], weights[row, :stop])
    num_tokens = int(mask.sum())
    positions = _labelled(targets)
    return MicroBatch(
        input_ids=input_ids,
        attention_mask=None if num_tokens == mask.numel() or not examples else mask,
        position_ids=None,
        boundaries=None,
        longest_document=None,
        segments=None,
        preorder=None,
        positions=positions,
        labels=targets[:, positions],
        weights=weights[:, positions],
        num_tokens=num_tokens,
    )


def collate_trees(
    trees: list[PrefixTree], pad_token_id: int, *, at_targets: bool = False
) -> MicroBatch:
    """All trees in one sequence, one after the other, without padding.

    With `at_targets` the positions are those of the trained tokens, not of what predicts them.

    No tree at all gives one pad token that carries no loss, as in `collate`.
    """
    num_tokens = sum(map(len, trees))
    trees = trees or [PrefixTree.of([Example([pad_token_id], [])])]
    firsts = [0, *accumulate(map(len, trees))][:-1]
    segments = [
        segment.moved(first)
        for tree, first in zip(trees, firsts, strict=True)
        for segment in tree.segments
    ]
    # Examples of one tree that share nothing are as foreign to each other as trees are.
    bounds = [segment.start for segment in segments if not segment.ancestors]
    bounds.append(segments[-1].end)
    has_branches = any(segment.ancestors for segment in segments)
    preorder = _joined([np.stack([tree.ranks, tree.ends]) for tree in trees], firsts)
    read = [tree.targets if at_targets else tree.predictors for tree in trees]
    positions = _joined(read, firsts)
    labels = _joined([tree.labels for tree in trees])
    weights = _joined([tree.weights for tree in trees])
    if not len(positions):
        positions, labels, weights = np.zeros(1), np.full(1, IGNORE_INDEX), np.zeros(1)
    return MicroBatch(
        input_ids=_tensor(_joined([tree.ids for tree in trees]))[None],
        attention_mask=None,
        position_ids=_tensor(_joined([tree.depths for tree in trees]))[None],
        boundaries=torch.tensor(bounds, dtype=torch.int32),
        longest_document=max(end - start for start, end in pairwise(bounds)),
        segments=tuple(segments),
        preorder=_tensor(preorder, torch.int32) if has_branches else None,
        positions=_tensor(positions),
        labels=_tensor(labels)[None],
        weights=_tensor(weights, torch.float32)[None],
        num_tokens=num_tokens,
    )


def _joined(parts: list[np.ndarray], moved_by: list[int] | None = None) -> np.ndarray:
    """Side by side, each with its number added."""
    moved = [part + by for part, by in zip(parts, moved_by or [0] * len(parts), strict=True)]
    return np.concatenate(moved, axis=-1)


def _tensor(values: np.ndarray, dtype: torch.dtype = torch.long) -> torch.Tensor:
    return torch.from_numpy(values).to(dtype)


def _write(
    example: Example, input_ids: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> None:
    """Fill an example's place, each (tokens,)."""
    ids = torch.tensor(example.ids)
    input_ids[:] = ids
    for span in example.spans:
        # The logits at position t-1 predict token t; nothing predicts token 0.
        first = max(span.start, 1)
        targets[first - 1 : span.end - 1] = ids[first : span.end]
        weights[first - 1 : span.end - 1] = span.weight


def _labelled(targets: torch.Tensor) -> torch.Tensor:
    """The positions with a target in any sequence; one without, if there is none at all."""
    positions = (targets != IGNORE_INDEX).any(dim=0).nonzero().squeeze(1)
    return positions if len(positions) else torch.zeros(1, dtype=torch.long)
