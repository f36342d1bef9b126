"""Adapters beside weights that FSDP2 shards: every rank holds whole adapters.

They are small, so only the frozen weights are worth dividing, and no layer waits for a gathering of
matrices of a few rows.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch.distributed.tensor import DTensor

from pipeline.trainer.parallel.interface import Distributed


@contextmanager
def whole_shapes(model: torch.nn.Module) -> Iterator[None]:
    """Within it, sharded weights look whole: their shape, dtype and device, without memory.

    peft measures modules by their weights, and would make adapters for the shards.
    """
    sharded = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(parameter, DTensor)
    ]
    for module, name, parameter in sharded:
        device = parameter.device_mesh.device_type
        stand_in = torch.empty((), dtype=parameter.dtype, device=device).expand(parameter.shape)
        setattr(module, name, torch.nn.Parameter(stand_in, requires_grad=False))
    try:
        yield
    finally:
        for module, name, parameter in sharded:
            setattr(module, name, parameter)


def average_gradients(parameters: Iterable[torch.nn.Parameter], distributed: Distributed) -> None:
    """Over all ranks, as FSDP2 does with those of its shards; of whole parameters only."""
    whole = [p for p in parameters if p.requires_grad and not isinstance(p, DTensor)]
    if not whole:
        return
    for parameter in whole:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [p.grad for p in whole if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    means = distributed.all_reduce(flat, "mean").split([g.numel() for g in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))
