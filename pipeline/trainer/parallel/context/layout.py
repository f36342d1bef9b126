"""Which tokens of a micro-batch every rank of a context group holds.

The sequence, padded at its end, is cut into equally long chunks. In the plain layout rank r holds
chunk r. In the zigzag layout there are two chunks per rank, and rank r holds r from the front and r
from the back: causal attention has as much to do on every rank, because a late chunk, which sees
much, comes with an early one, which sees little.
"""

from dataclasses import dataclass, replace

import torch
from torch.nn.functional import pad

from pipeline.trainer.data.collate import IGNORE_INDEX, MicroBatch
from pipeline.trainer.data.prefix_tree import Segment


@dataclass(frozen=True)
class Layout:
    """Chunks of a sequence to ranks."""

    num_ranks: int
    zigzag: bool

    @property
    def num_chunks(self) -> int:
        return self.num_ranks * (2 if self.zigzag else 1)

    def chunks(self, rank: int) -> tuple[int, ...]:
        """The chunks that `rank` holds, in rising order."""
        return (rank, self.num_chunks - 1 - rank) if self.zigzag else (rank,)

    def places(self, rank: int, length: int) -> torch.Tensor:
        """Of the tokens that `rank` holds, where each stands in the sequence; rising.

        `length` is a multiple of `num_chunks`.
        """
        size = length // self.num_chunks
        chunks = [torch.arange(i * size, (i + 1) * size) for i in self.chunks(rank)]
        return torch.cat(chunks)

    def part(self, batch: MicroBatch, rank: int) -> MicroBatch:
        """What `rank` computes of a micro-batch of one sequence.

        Tokens keep their positions. `boundaries` and `segments` stay those of the whole sequence;
        its padding is the last document. Every label goes to one rank.
        """
        length = batch.input_ids.shape[1]
        assert batch.position_ids is not None
        assert batch.boundaries is not None
        assert batch.segments is not None
        assert batch.longest_document is not None
        padding = -length % self.num_chunks
        places = self.places(rank, length + padding)
        where = torch.full((length + padding,), -1)
        where[places] = torch.arange(len(places))
        positions = where[batch.positions]
        mine = positions >= 0
        position_ids = torch.cat([batch.position_ids, torch.arange(padding)[None]], dim=1)
        part = replace(
            batch,
            input_ids=pad(batch.input_ids, (0, padding))[:, places],
            position_ids=position_ids[:, places],
            preorder=None,  # for masks, of which there are none here
            positions=positions[mine],
            labels=batch.labels[:, mine],
            weights=batch.weights[:, mine],
            num_tokens=min(batch.num_tokens, int((places < length).sum())),
        )
        if padding:
            end = batch.boundaries.new_tensor([length + padding])
            part.boundaries = torch.cat([batch.boundaries, end])
            part.segments = (*batch.segments, Segment(length, length + padding))
            part.longest_document = max(batch.longest_document, padding)
        return part if mine.any() else _without_labels(part)


def _without_labels(batch: MicroBatch) -> MicroBatch:
    """One position without a target: this rank runs the backward pass of the others with them."""
    rows = len(batch.input_ids)
    return replace(
        batch,
        positions=batch.positions.new_zeros(1),
        labels=batch.labels.new_full((rows, 1), IGNORE_INDEX),
        weights=batch.weights.new_zeros(rows, 1),
    )
