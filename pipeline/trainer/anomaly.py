"""Which steps are unlike the ones before: a loss or a gradient norm that is no number, or a spike.

A spike is far above the median of the last `WINDOW` steps, measured by their median absolute
deviation: both stay what they are when a few of the steps were spikes themselves.
"""

import math
from collections import deque
from statistics import median

WINDOW = 64
_ENOUGH = 16
"""Steps before any can be called unusual."""
_SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
_LEAST_DEVIATION = 0.02
"""Of the median: where all steps are alike, a small change is still small."""


class Watch:
    """Looks at every step, in order. The same steps give the same answers."""

    def __init__(self, threshold: float | None, earlier: dict[str, list[float]]) -> None:
        """`threshold`: standard deviations above the median that make a spike, None: nothing does;
        `earlier`: `progress()` of the run that this one continues, or empty."""
        self._threshold = threshold
        self._losses = deque(earlier.get("losses", ()), maxlen=WINDOW)
        self._norms = deque(earlier.get("grad_norms", ()), maxlen=WINDOW)

    def look(self, loss: float, grad_norm: float) -> str | None:
        """Returns: what is unusual about the step, for people; None: nothing."""
        found = [
            self._look_at("loss", loss, self._losses),
            self._look_at("gradient norm", grad_norm, self._norms),
        ]
        return " and ".join(filter(None, found)) or None

    def progress(self) -> dict[str, list[float]]:
        return {"losses": list(self._losses), "grad_norms": list(self._norms)}

    def _look_at(self, name: str, value: float, before: deque[float]) -> str | None:
        if not math.isfinite(value):
            return f"the {name} is {value}"
        limit = self._limit(before)
        usual = median(before) if before else value
        before.append(value)  # a spike, too: where all later steps are like it, it was none
        if value <= limit:
            return None
        return f"the {name} is {value:.4g}, usual is {usual:.4g}"

    def _limit(self, before: deque[float]) -> float:
        if self._threshold is None or len(before) < _ENOUGH:
            return math.inf
        middle = median(before)
        deviation = _SIGMA * median(abs(value - middle) for value in before)
        return middle + self._threshold * max(deviation, _LEAST_DEVIATION * abs(middle))
