"""A PiSSA adapter as an ordinary one, for the weights as they were before the training.

PiSSA takes the start of its matrices out of the weights: W = R + s B0 A0. What was trained is R +
s B A = W + s (B A - B0 A0): an adapter of twice the rank, [B, -B0] [A; A0] (arXiv 2404.02948, C).
"""

import copy
import math
from typing import Any

import torch


def convert_pissa(
    trained: dict[str, torch.Tensor], initial: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Name -> value of the ordinary adapter. `initial`: the matrices before the first step."""
    return {name: _joined(name, value, initial.get(name)) for name, value in trained.items()}


def converted_config(config: Any) -> Any:
    """The `LoraConfig` for twice the rank, with the same scale."""
    ordinary = copy.deepcopy(config)
    ordinary.r = 2 * config.r
    ordinary.lora_alpha = config.lora_alpha * (math.sqrt(2) if config.use_rslora else 2)
    ordinary.init_lora_weights = True
    return ordinary


def _joined(name: str, value: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
    if start is None:
        return value  # a module that is trained in full
    if name.endswith(("lora_A.weight", "lora_embedding_A")):
        return torch.cat([value, start.to(value)], dim=0)
    return torch.cat([value, -start.to(value)], dim=1)
