"""Ring attention: queries stay, keys and values come from every rank whose documents reach here.

Each rank attends to its own keys first, then to those of the rank `hop` places back, for every hop
over which some document extends; what comes next is on its way meanwhile. Partial outputs are
merged by the log-sum-exp of their scores, in fp32. On the way back keys and values travel again,
and their gradients return to their owners. The zigzag `Layout` balances the work.

Sources: Liu et al., Ring Attention, arXiv:2310.01889; Brandon et al., Striped Attention,
arXiv:2311.09431, for why the order of tokens decides the balance.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from pipeline.trainer.data.prefix_tree import Segment
from pipeline.trainer.parallel.context.block_attention import attend_block, attend_block_backward
from pipeline.trainer.parallel.context.layout import Layout
from pipeline.trainer.parallel.context.ring_blocks import Block, blocks_between, needed_hops


@dataclass(frozen=True)
class Ring:
    """The ranks that share a sequence, and the segments of its documents."""

    group: dist.ProcessGroup
    layout: Layout
    segments: tuple[Segment, ...]

    @property
    def hops(self) -> tuple[int, ...]:
        return needed_hops(self.segments, self.layout)

    def blocks(self, hop: int) -> tuple[Block, ...]:
        """What this rank's queries see of the keys of the rank `hop` places back."""
        rank = self.group.rank()
        owner = (rank - hop) % self.layout.num_ranks
        return blocks_between(self.segments, self.layout, rank, owner)


def attend_ring(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, ring: Ring
) -> torch.Tensor:
    """Causal attention along the branches of documents, of this rank's tokens.

    query (1, heads, tokens of this rank, head size), key and value with as many or fewer heads.
    Returns: like query.
    """
    return _RingAttention.apply(query, key, value, scale, ring)  # pyright: ignore[reportReturnType]


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        ring: Ring,
    ) -> torch.Tensor:
        exact = torch.promote_types(query.dtype, torch.float32)
        output = query.new_zeros((*query.shape[:-1], value.shape[-1]), dtype=exact)
        logsumexp = query.new_full(query.shape[:-1], float("-inf"), dtype=exact)
        for hop, keys, values in _travelling(key, value, ring):
            for block in ring.blocks(hop):
                part, part_logsumexp = attend_block(
                    query[:, :, block.queries],
                    keys[:, :, block.keys],
                    values[:, :, block.keys],
                    scale,
                    is_causal=block.is_causal,
                )
                _merge(
                    output[:, :, block.queries],
                    logsumexp[:, :, block.queries],
                    part,
                    part_logsumexp,
                )
        ctx.scale, ctx.ring = scale, ring
        output = output.to(query.dtype)
        ctx.save_for_backward(query, key, value, output, logsumexp)
        return output

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator has no names
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        query, key, value, output, logsumexp = ctx.saved_tensors
        ring: Ring = ctx.ring
        exact = torch.promote_types(query.dtype, torch.float32)
        to_query = torch.zeros_like(query, dtype=exact)
        own = torch.zeros((), dtype=exact)
        returning: _Shift | None = None
        for hop, keys, values in _travelling(key, value, ring):
            to_key, to_value = (torch.zeros_like(x, dtype=exact) for x in (keys, values))
            for block in ring.blocks(hop):
                added = attend_block_backward(
                    gradients[0][:, :, block.queries],
                    query[:, :, block.queries],
                    keys[:, :, block.keys],
                    values[:, :, block.keys],
                    output[:, :, block.queries],
                    logsumexp[:, :, block.queries],
                    ctx.scale,
                    is_causal=block.is_causal,
                )
                to_query[:, :, block.queries] += added[0]
                to_key[:, :, block.keys] += added[1]
                to_value[:, :, block.keys] += added[2]
            to_both = torch.cat([to_key, to_value], dim=-1)
            if returning is not None:
                own += returning.wait()
            if hop:
                returning = _Shift(to_both, -hop, ring.group)
            else:
                own = to_both
        if returning is not None:
            own += returning.wait()
        to_key, to_value = own.split([key.shape[-1], value.shape[-1]], dim=-1)
        return to_query.to(query.dtype), to_key.to(key.dtype), to_value.to(value.dtype), None, None


def _travelling(
    key: torch.Tensor, value: torch.Tensor, ring: Ring
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Yields: hop, the keys and the values of the rank that many places back; first the own."""
    sizes = [key.shape[-1], value.shape[-1]]
    both = torch.cat([key, value], dim=-1)
    hops = ring.hops
    coming = _Shift(both, hops[0], ring.group) if hops else None
    yield 0, key, value
    for following, hop in enumerate(hops, start=1):
        assert coming is not None
        keys, values = coming.wait().split(sizes, dim=-1)
        if following < len(hops):
            coming = _Shift(both, hops[following], ring.group)
        yield hop, keys, values


def _merge(
    output: torch.Tensor,
    logsumexp: torch.Tensor,
    part: torch.Tensor,
    part_logsumexp: torch.Tensor,
) -> None:
    """Take one more block into the outputs of some queries, in place."""
    total = torch.logaddexp(logsumexp, part_logsumexp)
    output *= (logsumexp - total).exp()[..., None]
    output += part * (part_logsumexp - total).exp()[..., None]
    logsumexp.copy_(total)


class _Shift:
    """A tensor on its way to the rank `hop` places on; as large a one comes from `hop` back."""

    def __init__(self, sent: torch.Tensor, hop: int, group: dist.ProcessGroup) -> None:
        rank, size = group.rank(), group.size()
        self._sent = sent.contiguous()  # has to live until it has arrived
        self._received = torch.empty_like(self._sent)
        self._requests = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, self._sent, group=group, group_peer=(rank + hop) % size),
                dist.P2POp(dist.irecv, self._received, group=group, group_peer=(rank - hop) % size),
            ]
        )

    def wait(self) -> torch.Tensor:
        for request in self._requests:
            request.wait()
        return self._received
