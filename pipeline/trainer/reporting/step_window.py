"""The steps since the last log line, in figures of speed."""

from collections.abc import Callable

import numpy as np

from pipeline.trainer.data.plan import Plan
from pipeline.trainer.data.step_load import StepLoad
from pipeline.trainer.reporting.rank_clock import RankReport


class StepWindow:
    """Collects steps on rank 0; a figure that is not known is left out."""

    def __init__(
        self,
        plan: Plan,
        num_devices: int,
        useful_flops: Callable[[int], float],
        peak_flops: float | None,
    ) -> None:
        """`useful_flops`: of a step, on all devices; `peak_flops`: per second of one device."""
        self._plan = plan
        self._num_devices = num_devices
        self._useful_flops = useful_flops
        self._peak_flops = peak_flops
        self._last_seconds = 0.0
        self._clear()

    def add(self, step: int, seconds: float, reports: list[RankReport]) -> None:
        """A step that took `seconds`; `reports` of the ranks on the step before, if there was one
        here."""
        self._steps.append(step)
        self._seconds.append(seconds)
        if reports and self._last_seconds:
            self._reports.append(reports)
            self._reported_seconds.append(self._last_seconds)
        self._last_seconds = seconds

    def take(self) -> dict[str, float]:
        """The figures of all steps since the last call."""
        seconds = sum(self._seconds)
        loads = [StepLoad.of(self._plan, step) for step in self._steps]
        tokens = sum(load.tokens for load in loads)
        slowest = sum(load.num_ranks * load.slowest for load in loads)
        figures = {
            "tokens_per_second_per_device": round(tokens / seconds / self._num_devices, 2),
            "padding": round(1 - tokens / sum(load.room for load in loads), 4),
            "balance": round(sum(load.compute for load in loads) / slowest, 4),
            "step_seconds_p50": round(float(np.percentile(self._seconds, 50)), 4),
            "step_seconds_p95": round(float(np.percentile(self._seconds, 95)), 4),
            "step_seconds_max": round(max(self._seconds), 4),
            **self._of_ranks(),
        }
        if self._peak_flops is not None:
            flops = sum(map(self._useful_flops, self._steps))
            most = seconds * self._num_devices * self._peak_flops
            figures["useful_mfu"] = round(flops / most, 4)
        self._clear()
        return figures

    def _of_ranks(self) -> dict[str, float]:
        """What the ranks said; they are one step late."""
        if not self._reports:
            return {}
        own, waits, memory = np.asarray(self._reports).transpose(2, 0, 1)  # each (steps, ranks)
        figures = {
            "peak_memory_bytes": int(memory.max()),
            "data_wait": round(float(waits.sum(axis=0).max() / sum(self._reported_seconds)), 4),
        }
        of_rank = own.sum(axis=0)
        if len(of_rank) > 1:
            lag = (of_rank.max() - np.median(of_rank)) / len(own)
            figures["slowest_rank"] = int(of_rank.argmax())
            figures["slowest_rank_lag_seconds"] = round(float(lag), 4)
        return figures

    def _clear(self) -> None:
        self._steps: list[int] = []
        self._seconds: list[float] = []
        self._reports: list[list[RankReport]] = []
        self._reported_seconds: list[float] = []
