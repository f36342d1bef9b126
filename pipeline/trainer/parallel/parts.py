"""The training state of a rank as contiguous ranges of named tensors, whichever the strategy.

Replicated (DDP), sharded by rows (FSDP2) and flattened and cut (ZeRO) tensors all are ranges of the
flattened whole. Named so, the state of any strategy on any number of ranks fits any other, and no
rank has to gather what it does not hold.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from transformers import PreTrainedModel

from pipeline.trainer.adapters.lora import has_adapter

WEIGHT = "weight"
"""The slot of parameters and persistent buffers; other slots are the optimizer's own names."""


@dataclass(frozen=True)
class Part:
    """Elements [start, start + len(data)) of a flattened tensor."""

    name: str
    """Of the parameter or buffer, as in the model's state_dict."""
    slot: str
    """WEIGHT, or what the optimizer calls it: exp_avg, exp_avg_sq, step, ..."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    start: int
    data: torch.Tensor
    """(n,), the live values where possible, on any device."""

    def cut(self, start: int, stop: int) -> "Part":
        """The elements [start, stop) of this part, counted from its own beginning."""
        return replace(self, start=self.start + start, data=self.data[start:stop])


def part_of(name: str, slot: str, tensor: torch.Tensor) -> Part:
    """What this rank holds of a tensor: all of it, or its rows of a `DTensor`."""
    if not isinstance(tensor, DTensor):
        return Part(name, slot, tuple(tensor.shape), 0, tensor.detach().view(-1))
    shape = tuple(tensor.shape)
    _, offset = compute_local_shape_and_global_offset(shape, tensor.device_mesh, tensor.placements)
    start = offset[0] * math.prod(shape[1:])
    return Part(name, slot, shape, start, tensor.to_local().detach().view(-1))


def saved_tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and persistent buffers by name, tied ones once; beside a frozen base model only
    the adapter."""
    if has_adapter(model):
        yield from (named for named in model.named_parameters() if named[1].requires_grad)
        return
    yield from model.named_parameters()
    persistent = model.state_dict().keys()
    yield from ((name, tensor) for name, tensor in model.named_buffers() if name in persistent)


def local_parts(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> list[Part]:
    """Weights and optimizer state that this rank holds, as they lie in its memory."""
    parts = []
    for name, tensor in saved_tensors(model):
        parts.append(part_of(name, WEIGHT, tensor))
        state = optimizer.state.get(tensor, {})
        parts += [part_of(name, slot, value) for slot, value in state.items()]
    return parts


def share_of(parts: list[Part], rank: int, world_size: int) -> list[Part]:
    """The `rank`-th of `world_size` equal ranges of every part, for what all ranks hold."""
    shares = []
    for part in parts:
        size = len(part.data)
        share = part.cut(size * rank // world_size, size * (rank + 1) // world_size)
        if len(share.data):
            shares.append(share)
    return shares


def initialize_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer make its state, which it does in its first step: one that changes nothing.

    Gradients are zero and so is the learning rate. What the state then holds is to be replaced.
    """
    groups = optimizer.param_groups
    before = [(group["lr"], [parameter.grad for parameter in group["params"]]) for group in groups]
    for group in groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for group, (rate, gradients) in zip(groups, before, strict=True):
        group["lr"] = rate
        for parameter, gradient in zip(group["params"], gradients, strict=True):
            parameter.grad = gradient
