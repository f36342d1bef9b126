"""The optimizer that the training YAML names, and which parameters decay."""

from collections.abc import Iterable
from typing import Any

import torch

from pipeline.trainer.args import TrainArgs
from pipeline.trainer.compact_adamw import BF16, BLOCKWISE_8BIT, CompactAdamW
from pipeline.trainer.muon import Muon, takes_muon

_COMPACT = {
    "adamw_bf16": BF16,
    "adamw_8bit": BLOCKWISE_8BIT,
    "adamw_bnb_8bit": BLOCKWISE_8BIT,
    "adamw_torch_8bit": BLOCKWISE_8BIT,
}


def make_optimizer(model: torch.nn.Module, args: TrainArgs) -> torch.optim.Optimizer:
    """AdamW in the variant of `optim`, or with `use_muon` Muon for the matrices of the layers.

    Biases and norm weights (one-dimensional parameters) do not decay.
    """
    adamw = {
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
    }
    if args.use_muon:
        matrices, others = takes_muon(model)
        groups = _decay_groups(matrices, args.weight_decay)
        return Muon(groups, _decay_groups(others, args.weight_decay), **adamw)
    groups = _decay_groups(model.parameters(), args.weight_decay)
    if args.optim in _COMPACT:
        return CompactAdamW(groups, moments=_COMPACT[args.optim], **adamw)
    fused = True if args.optim == "adamw_torch_fused" else None
    return torch.optim.AdamW(groups, fused=fused, **adamw)


def set_learning_rate(param_groups: Iterable[dict[str, Any]], learning_rate: float) -> None:
    for group in param_groups:
        group["lr"] = learning_rate


def _decay_groups(
    parameters: Iterable[torch.nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    decayed, kept = [], []
    for parameter in parameters:
        # Under ZeRO-3 a partitioned parameter is empty; DeepSpeed keeps its real shape.
        shape = getattr(parameter, "ds_shape", parameter.shape)
        (decayed if len(shape) >= 2 else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
