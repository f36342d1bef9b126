"""How long a run takes: what its steps need, and what a device does of it per second.

Before the first step the rate is an assumption; after a few it is measured, and what is left is
counted by what the steps to come need, not by their number.
"""

import logging
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.trainer.planned_run import PlannedRun

logger = logging.getLogger(__name__)

ASSUMED_MFU = 0.4
"""Useful FLOPs over peak of a run that nobody has measured; good ones of dense models have 0.3 to
0.5."""
COMPARED_AFTER = 5
"""Steps of this process; the first, which compiles and allocates, does not count."""


@dataclass(frozen=True)
class TimePlan:
    """Useful FLOPs: neither padding counts nor what is computed again."""

    step_flops: np.ndarray  # (steps,) of all devices together
    num_devices: int
    peak_flops: float | None
    """Of one device, per second; None: not known, or not comparable."""

    @classmethod
    def of(cls, run: PlannedRun, num_devices: int, peak_bf16: float | None) -> "TimePlan":
        """`peak_bf16`: of one device, per second."""
        documents = run.plan.documents
        of_documents = run.flops.useful(
            documents.lengths, documents.attention, run.data.trained_tokens
        )
        # Of an adapter's frozen weights no gradient is computed, and fp32 has another peak.
        is_comparable = run.args.bf16 and run.args.finetuning_type == "full"
        peak = peak_bf16 if is_comparable else None
        return cls(run.plan.step_sums(of_documents), num_devices, peak)

    @property
    def total(self) -> float:
        return float(self._until[-1])

    @property
    def predicted_seconds(self) -> float | None:
        """At the assumed rate."""
        if self.peak_flops is None:
            return None
        return self.total / (ASSUMED_MFU * self.peak_flops * self.num_devices)

    def of_step(self, step: int) -> float:
        return float(self.step_flops[step - 1])

    def between(self, first: int, last: int) -> float:
        """Of the steps behind `first` up to `last`."""
        return float(self._until[last] - self._until[first])

    def seconds_left(self, first: int, step: int, elapsed: float) -> float:
        """After `step`, if the steps behind `first` up to it took `elapsed` seconds."""
        done = self.between(first, step)
        return elapsed * self.between(step, len(self.step_flops)) / done if done else 0.0

    def describe(self) -> str:
        text = f"{self.total:.3g} useful FLOP in {len(self.step_flops):,} steps"
        seconds = self.predicted_seconds
        if seconds is None:
            return f"{text}; how long they take is known when some have run"
        return (
            f"{text}, about {_clock(seconds)} on {self.num_devices} devices if their useful MFU is "
            f"{100 * ASSUMED_MFU:.0f} %, which is assumed"
        )

    def to_record(self) -> dict[str, Any]:
        return {
            "useful_flops": self.total,
            "assumed_mfu": ASSUMED_MFU,
            "predicted_seconds": self.predicted_seconds,
        }

    @cached_property
    def _until(self) -> np.ndarray:
        """(steps + 1,) of all steps until after each"""
        return np.append(0.0, np.cumsum(self.step_flops))


class TimeCheck:
    """The plan of a run against its steps. On rank 0."""

    def __init__(self, plan: TimePlan, first_step: int) -> None:
        """`first_step` is the last one before this process."""
        self.plan = plan
        self._first = first_step
        self._seconds: list[float] = []
        self._flops: list[float] = []
        self._rate: float | None = None

    def announce(self) -> None:
        logger.info("time plan: %s", self.plan.describe())

    def add(self, step: int, seconds: float) -> None:
        """A step that took `seconds`."""
        if self._rate is not None:
            return
        self._seconds.append(seconds)
        self._flops.append(self.plan.of_step(step))
        is_last = step == len(self.plan.step_flops)
        if len(self._seconds) == COMPARED_AFTER or (is_last and len(self._seconds) > 1):
            self._rate = sum(self._flops[1:]) / max(sum(self._seconds[1:]), 1e-9)
            self._compare(step, self._rate)

    def seconds_left(self, step: int, elapsed: float) -> float:
        """After `step`, `elapsed` seconds after this process began."""
        return self.plan.seconds_left(self._first, step, elapsed)

    def to_record(self) -> dict[str, Any]:
        """`projected_seconds`: of the whole run at the measured rate."""
        rate = self._rate
        return {
            **self.plan.to_record(),
            "measured_flops_per_second": rate,
            "projected_seconds": rate and self.plan.total / rate,
        }

    def _compare(self, step: int, rate: float) -> None:
        plan = self.plan
        of_device, mfu = rate / plan.num_devices, ""
        if plan.peak_flops is not None:
            share = 100 * of_device / plan.peak_flops
            mfu = f", a useful MFU of {share:.1f} % where {100 * ASSUMED_MFU:.0f} % was assumed"
        steps = len(plan.step_flops)
        logger.info(
            "time after %d steps: %.3g TFLOP/s per device%s; the other %s steps take about %s",
            len(self._seconds),
            of_device / 1e12,
            mfu,
            f"{steps - step:,}",
            _clock(plan.between(step, steps) / max(rate, 1e-9)),
        )


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
