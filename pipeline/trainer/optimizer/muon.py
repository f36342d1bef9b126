"""Muon for the matrices of the layers and AdamW for everything else, as one optimizer."""

from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

_EMBEDDINGS = ("embed", "lm_head")


Named = list[tuple[str, torch.nn.Parameter]]


def takes_muon(parameters: Named) -> tuple[Named, Named]:
    """Matrices that are neither embedding nor lm_head, and all other parameters.

    The choice is LLaMA-Factory's (train/trainer_utils.py @ 0.9.5).
    """
    matrices, others = [], []
    for name, parameter in parameters:
        is_matrix = parameter.ndim == 2 and not any(part in name for part in _EMBEDDINGS)
        (matrices if is_matrix else others).append((name, parameter))
    return matrices, others


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` and `torch.optim.AdamW` over one state and one list of groups.

    Muon's update is scaled to the root mean square of AdamW's, so that one learning rate fits both.
    """

    def __init__(
        self, matrices: list[dict[str, Any]], others: list[dict[str, Any]], **adamw: Any
    ) -> None:
        self._parts: tuple[torch.optim.Optimizer, ...] = ()
        for group in matrices:
            group["by_muon"] = True
        for group in others:
            group["by_muon"] = False
        muon = _MuonOfWholes(matrices, lr=adamw["lr"], adjust_lr_fn="match_rms_adamw")
        parts = (muon, torch.optim.AdamW(others, **adamw))
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts
        self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()  # loading makes new groups and a new state

    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # no closures
        for part in self._parts:
            part.step()

    def _share(self) -> None:
        for part, by_muon in zip(self._parts, (True, False), strict=False):
            part.state = self.state
            part.param_groups = [g for g in self.param_groups if g["by_muon"] == by_muon]


class _MuonOfWholes(torch.optim.Muon):
    """`torch.optim.Muon`, also of sharded matrices: each is whole while its update is made.

    The update is orthogonal as a matrix, so it does not follow from the rows that a rank has. As
    under DDP, every rank computes it.
    """

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # no closures
        sharded = [(group, p) for group in self.param_groups for p in group["params"]]
        sharded = [(group, p) for group, p in sharded if isinstance(p, DTensor)]
        if not sharded:
            super().step()
            return
        for group, parameter in sharded:
            if parameter.grad is not None:
                self._update(parameter, parameter.grad, group)

    def _update(self, parameter: DTensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        assert isinstance(direction, DTensor)
        # Of a matrix of zeros without decay and momentum, a step leaves just the update.
        update = torch.zeros(parameter.shape, dtype=direction.dtype, device=direction.device)
        update.grad = direction.full_tensor()
        alone = {**group, "params": [update], "momentum": 0.0, "weight_decay": 0.0}
        torch.optim.Muon([alone]).step()
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        rows = distribute_tensor(
            update, parameter.device_mesh, parameter.placements, src_data_rank=None
        )
        parameter.add_(rows)
