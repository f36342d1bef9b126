"""The optimizer and the learning rate as a pure function of the step."""

import math
from collections.abc import Iterable
from typing import Any

import torch

from pipeline.trainer.args import TrainArgs


def adamw(model: torch.nn.Module, args: TrainArgs) -> torch.optim.AdamW:
    """AdamW; biases and norm weights (one-dimensional parameters) do not decay."""
    decayed, kept = [], []
    for parameter in model.parameters():
        # Under ZeRO-3 a partitioned parameter is empty; DeepSpeed keeps its real shape.
        shape = getattr(parameter, "ds_shape", parameter.shape)
        (decayed if len(shape) >= 2 else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": args.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
        fused=True if args.optim == "adamw_torch_fused" else None,
    )


def set_learning_rate(param_groups: Iterable[dict[str, Any]], learning_rate: float) -> None:
    for group in param_groups:
        group["lr"] = learning_rate


def num_warmup_steps(args: TrainArgs, total_steps: int) -> int:
    """`warmup_steps` if set, else `warmup_ratio` of all steps, rounded up as Transformers does."""
    return args.warmup_steps or math.ceil(total_steps * args.warmup_ratio)


def learning_rate_at(step: int, args: TrainArgs, total_steps: int) -> float:
    """Learning rate of step 1, 2, ..., `total_steps`; the schedules of Transformers.

    With warmup the first step has rate 0: the rate of step k is the schedule's value after k-1.
    """
    done = step - 1
    warmup = num_warmup_steps(args, total_steps)
    if args.lr_scheduler_type == "constant":
        return args.learning_rate
    if done < warmup:
        return args.learning_rate * done / warmup
    progress = (done - warmup) / max(1, total_steps - warmup)
    if args.lr_scheduler_type == "cosine":
        return args.learning_rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
    if args.lr_scheduler_type == "linear":
        return args.learning_rate * max(0.0, 1.0 - progress)
    return args.learning_rate  # constant_with_warmup
