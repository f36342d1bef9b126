"""Muon for the matrices of the layers and AdamW for everything else, as one optimizer."""

from typing import Any

import torch

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
        muon = torch.optim.Muon(matrices, lr=adamw["lr"], adjust_lr_fn="match_rms_adamw")
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
