"""The optimizer that the training YAML names, and which parameters decay."""

from collections.abc import Iterable
from typing import Any

import torch

from pipeline.trainer.args import TrainArgs
from pipeline.trainer.optimizer.compact_adamw import BF16, BLOCKWISE_8BIT, CompactAdamW
from pipeline.trainer.optimizer.muon import Muon, Named, takes_muon

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
    trained = [named for named in model.named_parameters() if named[1].requires_grad]
    if args.use_muon:
        matrices, others = takes_muon(trained)
        return Muon(_groups(matrices, args), _groups(others, args), **adamw)
    groups = _groups(trained, args)
    if args.optim in _COMPACT:
        return CompactAdamW(groups, moments=_COMPACT[args.optim], **adamw)
    fused = True if args.optim == "adamw_torch_fused" else None
    return torch.optim.AdamW(groups, fused=fused, **adamw)


def has_compact_moments(args: TrainArgs) -> bool:
    """Are the moments smaller than those that AdamW keeps in the dtype of the weights?"""
    return args.optim in _COMPACT and not args.use_muon


def _groups(parameters: Named, args: TrainArgs) -> list[dict[str, Any]]:
    """Parameters by weight decay and, under LoRA+, by learning rate."""
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for name, parameter in parameters:
        # Under ZeRO-3 a partitioned parameter is empty; DeepSpeed keeps its real shape.
        is_matrix = len(getattr(parameter, "ds_shape", parameter.shape)) >= 2
        scale = _learning_rate_scale(name, is_matrix, args)
        weight_decay = args.weight_decay if is_matrix else 0.0
        new = {"weight_decay": weight_decay, "lr_scale": scale, "is_matrix": is_matrix}
        group = groups.setdefault((not is_matrix, scale), {"params": [], **new})
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def _learning_rate_scale(name: str, is_matrix: bool, args: TrainArgs) -> float:
    """Learning rate of a parameter as a multiple of `learning_rate` (LoRA+, arXiv 2402.12354)."""
    if args.loraplus_lr_ratio is None:
        return 1.0
    if "lora_embedding_B" in name:
        return args.loraplus_lr_embedding / args.learning_rate
    return args.loraplus_lr_ratio if "lora_B" in name or not is_matrix else 1.0


def set_learning_rate(param_groups: Iterable[dict[str, Any]], learning_rate: float) -> None:
    for group in param_groups:
        group["lr"] = learning_rate * group["lr_scale"]
