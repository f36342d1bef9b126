"""Ulysses: for attention, ranks swap their tokens of all heads for all tokens of their heads.

    (heads, tokens / ranks) --all to all--> (heads / ranks, tokens) --attention-->
    (heads / ranks, tokens) --all to all--> (heads, tokens / ranks)

Every rank attends over the whole sequence, by the implementation for packed sequences, for its
share of the heads: the work is balanced whatever the documents are. Of keys and values with fewer
heads than queries, every head goes to the ranks that need it.

Source: Jacobs et al., DeepSpeed Ulysses, arXiv:2309.14509.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist

from pipeline.trainer.modeling.attention import attend_per_document


def attend_ulysses(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    group: dist.ProcessGroup,
    **kwargs: Any,
) -> torch.Tensor:
    """Attention of this rank's tokens, which are those of a plain `Layout`.

    query (1, heads, tokens of this rank, head size), key and value with as many or fewer heads; the
    number of ranks divides the heads of query. `kwargs` describe the documents of the whole
    sequence. Returns (1, tokens of this rank, heads, head size).
    """
    copies = copies_of_kv_heads(query.shape[1], key.shape[1], group.size())
    query = _to_all_tokens(query, group)
    key = _to_all_tokens(key.repeat_interleave(copies, dim=1), group)
    value = _to_all_tokens(value.repeat_interleave(copies, dim=1), group)
    heads = _heads_of_one_rank(query.shape[1] // key.shape[1])
    heads.training = module.training
    output, _ = attend_per_document(heads, query, key, value, attention_mask, **kwargs)
    return _to_all_heads(output, group)


def copies_of_kv_heads(num_heads: int, num_kv_heads: int, num_ranks: int) -> int:
    """How often to repeat each head of keys and values so that ranks get equal shares of them.

    The smallest number for which the heads of queries that a rank gets meet the heads of keys that
    it gets; `num_heads // num_kv_heads` always does.
    """
    per_kv_head = num_heads // num_kv_heads
    return next(
        copies
        for copies in range(1, per_kv_head + 1)
        if per_kv_head % copies == 0 and num_kv_heads * copies % num_ranks == 0
    )


@lru_cache
def _heads_of_one_rank(num_key_value_groups: int) -> torch.nn.Module:
    """What attention reads of a module: heads of queries per head of keys, here of one rank."""
    module: Any = torch.nn.Module()
    module.num_key_value_groups = num_key_value_groups
    return module


def _to_all_tokens(states: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """(1, heads, tokens / ranks, size) -> (1, heads / ranks, tokens, size)."""
    of_ranks = states[0].unflatten(
        0, (group.size(), -1)
    )  # (ranks, heads / ranks, tokens / ranks, )
    received = _exchange(of_ranks, group)
    return received.transpose(0, 1).flatten(1, 2)[None]


def _to_all_heads(output: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """(1, tokens, heads / ranks, size) -> (1, tokens / ranks, heads, size)."""
    of_ranks = output[0].unflatten(
        0, (group.size(), -1)
    )  # (ranks, tokens / ranks, heads / ranks, )
    received = _exchange(of_ranks, group)
    return received.transpose(0, 1).flatten(1, 2)[None]


def _exchange(of_ranks: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    return _AllToAll.apply(of_ranks, group)  # pyright: ignore[reportReturnType]


class _AllToAll(torch.autograd.Function):
    """Number i goes to rank i; what came from rank i becomes number i. Gradients go back so."""

    @staticmethod
    def forward(ctx: Any, of_ranks: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        sent = of_ranks.contiguous()
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=group)
        return received

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _exchange(gradients[0], ctx.group), None
