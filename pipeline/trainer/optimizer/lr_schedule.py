"""The learning rate as a pure function of the step: the schedules of Transformers."""

import math
from typing import Any

from pipeline.trainer.args import TrainArgs

Options = dict[str, Any]


def num_warmup_steps(args: TrainArgs, total_steps: int) -> int:
    """`warmup_steps` if set, else `warmup_ratio` of all steps, rounded up as Transformers does."""
    return args.warmup_steps or math.ceil(total_steps * args.warmup_ratio)


def learning_rate_at(step: int, args: TrainArgs, total_steps: int) -> float:
    """Learning rate of step 1, 2, ..., `total_steps`.

    With warmup the first step has rate 0: the rate of step k is the schedule's value after k-1.
    """
    kind, peak = args.lr_scheduler_type, args.learning_rate
    options = args.lr_scheduler_kwargs or {}
    done, warmup = step - 1, num_warmup_steps(args, total_steps)
    if kind == "constant":
        return peak
    if done < warmup:
        return peak * _warmup(kind, done / warmup, options)
    if kind == "inverse_sqrt":
        timescale = options.get("timescale") or warmup or 10_000
        return peak / math.sqrt((done + timescale - warmup) / timescale)
    if kind == "warmup_stable_decay":
        return peak * _after_stable(done - warmup, total_steps - warmup, options)
    progress = (done - warmup) / max(1, total_steps - warmup)
    return peak * _decay(kind, progress, peak, options)


def _warmup(kind: str, progress: float, options: Options) -> float:
    if kind != "warmup_stable_decay":
        return progress
    shape = options.get("warmup_type", "linear")
    if shape == "cosine":
        progress = 0.5 * (1 - math.cos(math.pi * progress))
    elif shape == "1-sqrt":
        progress = 1 - math.sqrt(1 - progress)
    return _above_least(progress, options)


def _decay(kind: str, progress: float, peak: float, options: Options) -> float:
    """The share of the peak when `progress`, from 0 to 1, of the steps after warmup is done."""
    if kind == "cosine":
        return _cosine(progress, options.get("num_cycles", 0.5))
    if kind == "cosine_with_min_lr":
        least = options.get("min_lr_rate")
        if least is None:
            least = options["min_lr"] / peak
        return _cosine(progress, options.get("num_cycles", 0.5)) * (1 - least) + least
    if kind == "cosine_with_restarts":
        cycle = options.get("num_cycles", 1) * progress % 1.0
        return _cosine(cycle, 0.5) if progress < 1 else 0.0
    if kind == "polynomial":
        end = options.get("lr_end", 1e-7)
        return ((peak - end) * (1 - progress) ** options.get("power", 1.0) + end) / peak
    if kind == "linear":
        return max(0.0, 1 - progress)
    return 1.0  # constant_with_warmup


def _after_stable(done: int, left: int, options: Options) -> float:
    """warmup_stable_decay, `done` of the `left` steps behind warmup.

    What one of the parts leaves is the other's; if neither is given, a third is stable, as in
    LLaMA-Factory.
    """
    given = options.get("num_decay_steps")
    stable = options.get("num_stable_steps", left // 3 if given is None else left - given)
    decay = left - stable if given is None else given
    if done < stable:
        return 1.0
    if done >= stable + decay:
        return options.get("min_lr_ratio", 0.0)
    progress = (done - stable) / decay
    shape = options.get("decay_type", "cosine")
    if shape == "cosine":
        share = _cosine(progress, options.get("num_cycles", 0.5))
    else:
        share = 1 - (progress if shape == "linear" else math.sqrt(progress))
    return _above_least(share, options)


def _above_least(share: float, options: Options) -> float:
    least = options.get("min_lr_ratio", 0.0)
    return max(0.0, share * (1 - least) + least)


def _cosine(progress: float, num_cycles: float) -> float:
    return max(0.0, 0.5 * (1 + math.cos(2 * math.pi * num_cycles * progress)))
