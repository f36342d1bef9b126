"""Context parallelism: the ranks of a group share one micro-batch, each with a part of its tokens.

All but attention works on tokens one by one. Attention is registered with Transformers under one
name, `CONTEXT_PARALLEL`, and talks to the other ranks of the group. Each rank's loss is that of its
own tokens: summed over ranks, losses and gradients are those of the whole sequence, so strategies
need to know nothing of it.
"""

import functools
from typing import Any

import torch
import torch.distributed as dist
from transformers import AttentionInterface

from pipeline.errors import TrainError
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.collate import MicroBatch
from pipeline.trainer.modeling.attention import BEYOND_MASKS, Documents, in_autocast_dtype
from pipeline.trainer.modeling.load import CONTEXT_PARALLEL, load_config
from pipeline.trainer.parallel.context.choice import Mode, choose_mode
from pipeline.trainer.parallel.context.layout import Layout
from pipeline.trainer.parallel.context.ring import Ring, attend_ring
from pipeline.trainer.parallel.context.ulysses import attend_ulysses
from pipeline.trainer.parallel.interface import Distributed


class ContextParallel:
    """How the ranks of one group share their micro-batches."""

    def __init__(self, mode: Mode, group: dist.ProcessGroup) -> None:
        """Until there is another one, this is what `CONTEXT_PARALLEL` means to Transformers."""
        self.mode = mode
        self._rank = group.rank()
        self._layout = Layout(group.size(), zigzag=mode == "zigzag-ring")
        attend = _attend_ulysses if mode == "ulysses" else _attend_ring
        AttentionInterface.register(
            CONTEXT_PARALLEL, functools.partial(attend, group=group, layout=self._layout)
        )

    @classmethod
    def of(cls, args: TrainArgs, distributed: Distributed) -> "ContextParallel | None":
        """None: every rank has micro-batches of its own.

        Raises: as `choose_mode`.
        """
        if distributed.context_size == 1:
            return None
        mode = choose_mode(args, load_config(args))
        return cls(mode, distributed.data_mesh.get_group("cp"))

    def part(self, batch: MicroBatch) -> MicroBatch:
        """What this rank computes of its group's micro-batch."""
        return self._layout.part(batch, self._rank)


def _attend_ulysses(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    group: dist.ProcessGroup,
    layout: Layout,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    _check_only_masks(kwargs)
    del layout  # contiguous parts in the order of the ranks
    states = in_autocast_dtype(query, key, value)
    return attend_ulysses(module, *states, attention_mask, group=group, **kwargs), None


def _attend_ring(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    group: dist.ProcessGroup,
    layout: Layout,
    documents: Documents,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    _check_only_masks(kwargs)
    assert attention_mask is None
    if dropout:
        raise TrainError(
            f"sequence_parallel_mode zigzag-ring: this model has attention dropout ({dropout}), "
            "which the ring does not know; set training.sequence_parallel_mode to ulysses"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    ring = Ring(group, layout, documents.segments)
    output = attend_ring(*in_autocast_dtype(query, key, value), scale, ring)
    return output.transpose(1, 2).contiguous(), None


def _check_only_masks(kwargs: dict[str, Any]) -> None:
    asked = [name for name in BEYOND_MASKS if kwargs.get(name) is not None]
    if asked:
        raise TrainError(
            f"this model's attention has {', '.join(asked)}, which PyTorch's kernels cannot do; "
            "set training.sequence_parallel_size to 1"
        )
