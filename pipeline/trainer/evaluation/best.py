"""Which evaluation was the best: it decides early stopping, which checkpoint is kept and the model.

The rules are Transformers': `metric_for_best_model` is an evaluation's number, with or without
`eval_` before it, and less of it is better if its name ends with `loss`.
"""

import math
from collections.abc import Mapping, Sequence

from pipeline.errors import TrainError
from pipeline.trainer.args import TrainArgs


def best_metric_name(args: TrainArgs) -> str:
    """As the evaluations have it."""
    return "eval_" + (args.metric_for_best_model or "loss").removeprefix("eval_")


def badness(args: TrainArgs, metrics: Mapping[str, float]) -> float:
    """The metric, turned so that less is better; what is no number is the worst.

    Raises: TrainError: it was not measured.
    """
    name = best_metric_name(args)
    if name not in metrics:
        found = ", ".join(key for key in metrics if key.startswith("eval_"))
        raise TrainError(
            f"training.metric_for_best_model: {args.metric_for_best_model}: the evaluation found "
            f"no {name} (found: {found}); name one of these"
        )
    value = metrics[name]
    more_is_better = args.greater_is_better
    if more_is_better is None:
        more_is_better = not name.endswith("loss")
    return math.inf if math.isnan(value) else -value if more_is_better else value


def has_stopped_improving(found: Sequence[float], patience: int | None) -> bool:
    """Whether the last `patience` evaluations all were no better than one before; None: no."""
    if patience is None or len(found) <= patience:
        return False
    return not min(found[-patience:]) < min(found[:-patience])


def best_first(found: Mapping[int, float]) -> list[int]:
    """Steps by their badness; of equal ones the earlier is the better, as in Transformers."""
    return sorted(found, key=lambda step: (found[step], step))
