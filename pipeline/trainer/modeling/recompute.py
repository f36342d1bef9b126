"""Activation checkpointing: what a layer keeps for its backward pass, and what it computes again.

    none       everything is kept
    selective  what attention gives is kept, the rest of a layer is computed again
    full       the layer's input is kept, the layer is computed again
    offload    as full, and the inputs wait in host memory

Recomputing attention costs as much as computing it, which is most of a long sequence's time, and
what it gives is one layer input more.
"""

import functools
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import save_on_cpu
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

from pipeline.trainer.keys.compute import Recompute

_ATTENTION = (
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_fused_attention_overrideable",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "flash_attn::",
    "flash_attn_3::",
    "torch_attn::",
)
"""How the names of the operators begin whose results are kept."""


def checkpointed(forward: Callable[..., Any], kind: Recompute) -> Callable[..., Any]:
    """`forward` of a layer, whose first argument is its input, with this way of checkpointing."""
    if kind == "none":
        return forward
    run: Callable[..., Any] = functools.partial(checkpoint, use_reentrant=False)
    if kind == "selective":
        run = functools.partial(run, context_fn=_keeping_attention)
    elif kind == "offload":
        run = functools.partial(_offloaded, run)

    def checkpointing(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return run(functools.partial(forward, **kwargs), *args)

    return checkpointing


def _offloaded(run: Callable[..., Any], function: Callable[..., Any], *args: Any) -> Any:
    """What the checkpoint itself keeps, the layer's input, meets these hooks, and nothing else."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return run(function, *args)
    with save_on_cpu(pin_memory=True, device_type=accelerator.type):
        return run(function, *args)


def _keeping_attention() -> tuple[TorchDispatchMode, TorchDispatchMode]:
    """Contexts of one layer: for its forward pass, and for computing it again."""
    kept: deque[Any] = deque()
    return _Keep(kept), _Replay(kept)


class _Mode(TorchDispatchMode):
    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Compiled code may run under it: attention is never part of that (compilation.py)."""
        return True


class _Keep(_Mode):
    """Remembers what attention gives.

    PyTorch's own selective contexts want every operator to run as often the second time; ZeRO-3
    gathers parameters as it needs them.
    """

    def __init__(self, kept: deque[Any]) -> None:
        super().__init__()
        self._kept = kept

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.name().startswith(_ATTENTION):
            # A copy of the handle: autograd ties the other one to this graph.
            self._kept.append(tree_map_only(torch.Tensor, torch.Tensor.detach, found))
        return found


class _Replay(_Mode):
    """Gives what was remembered, in the same order, instead of computing it."""

    def __init__(self, kept: deque[Any]) -> None:
        super().__init__()
        self._kept = kept

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().startswith(_ATTENTION):
            return self._kept.popleft()
        return func(*args, **(kwargs or {}))
