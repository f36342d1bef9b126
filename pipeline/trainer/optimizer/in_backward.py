"""Optimizer in backward: each weight is updated as soon as its gradient is complete.

The gradient is freed at once, so that there are never more than those of one weight (under FSDP2:
of one layer) instead of all. Nothing can look at all gradients before the first update: they are
neither accumulated nor clipped.
"""

from functools import partial

import torch


class UpdateInBackward:
    """Hooks on all parameters of an optimizer."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._norms: dict[torch.Tensor, torch.Tensor] = {}
        for number, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                parameter.register_post_accumulate_grad_hook(partial(self._update, number))

    def total_norm(self) -> torch.Tensor:
        """L2 norm of the gradients since the last call, as clipping computes it."""
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        norms = [self._norms[p] for p in parameters if p in self._norms]
        self._norms.clear()
        return torch.linalg.vector_norm(torch.stack(norms))

    def _update(self, number: int, parameter: torch.Tensor) -> None:
        """`number`: of the group, which loading a state replaces."""
        assert parameter.grad is not None
        self._norms[parameter] = torch.linalg.vector_norm(parameter.grad)
        groups = self._optimizer.param_groups
        self._optimizer.param_groups = [{**groups[number], "params": [parameter]}]
        try:
            self._optimizer.step()
        finally:
            self._optimizer.param_groups = groups
        parameter.grad = None
