"""Operators that PyTorch runs, but refuses on tensors without contents."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_GROUPED_MM = torch.ops.aten._grouped_mm.default


class FakeKernels(TorchDispatchMode):
    """Entered above a `FakeTensorMode`.

    The products of all experts of a layer (`grouped_mm`) are computed in any dtype, but described
    for bf16 alone (torch/_meta_registrations.py, `_meta_grouped_mm_common`).
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not _GROUPED_MM:
            return func(*args, **(kwargs or {}))
        first, second, *others = args
        found = func(first.bfloat16(), second.bfloat16(), *others, **(kwargs or {}))
        return found.to(first.dtype)
