"""What each rank alone knows of a step: how long it computed, waited for data, used memory.

Told to all ranks along with the next step's loss, so neither a collective of its own nor a wait of
the host for the device is needed.
"""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch


class RankReport(NamedTuple):
    """One rank's part in one step."""

    own_seconds: float
    """From the start of the step to the end of the last forward pass. After that ranks wait for
    each other; where the strategy makes them meet at every layer, they do so all the time."""
    data_wait_seconds: float
    """How long the host waited for micro-batches."""
    peak_memory_bytes: float
    """The most so far: of the accelerator's allocator or, on the CPU, of the process."""


_NONE = RankReport(0.0, 0.0, 0.0)


class RankClock:
    """Measures this rank, on the clock of its device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[Any] = []  # torch.Event, or on the CPU _HostEvent
        self._data_wait = 0.0
        self._last = _NONE
        self._begun = time.perf_counter()

    def begin(self) -> None:
        """A step begins; the host has seen the end of the one before."""
        if len(self._marks) == 2:
            begun, computed = self._marks
            self._last = RankReport(
                begun.elapsed_time(computed) / 1000,
                self._data_wait,
                peak_memory_bytes(self._device),
            )
        self._data_wait = 0.0
        self._begun = time.perf_counter()
        self._marks = [self._mark()]

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._data_wait += time.perf_counter() - started

    def computed(self) -> None:
        """The last forward pass of the step is under way, and whatever comes before it."""
        self._marks.append(self._mark())

    @property
    def seconds(self) -> float:
        """Since the step began."""
        return time.perf_counter() - self._begun

    def table(self, rank: int, world_size: int) -> torch.Tensor:
        """The report on the step before in the place of this rank; summed over ranks, `reports`.

        (world size x fields,), on the device. To be called right after `begin`: as long as the
        device has nothing to do, the copy waits for nothing.
        """
        table = [(0.0,) * len(RankReport._fields)] * world_size
        table[rank] = self._last
        dtype = torch.float32 if self._device.type == "mps" else torch.float64
        return torch.tensor(table, dtype=dtype, device=self._device).flatten()

    def _mark(self) -> Any:
        if self._device.type == "cpu":
            event = _HostEvent()
        else:
            event = torch.Event(self._device, enable_timing=True)
        event.record()
        return event


class _HostEvent:
    """What `torch.Event` is for an accelerator."""

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: "_HostEvent") -> float:
        """Milliseconds."""
        return 1000 * (end.at - self.at)


def reports(table: list[float]) -> list[RankReport]:
    """By rank; none about the first step of a process."""
    size = len(RankReport._fields)
    found = [RankReport(*table[at : at + size]) for at in range(0, len(table), size)]
    return found if all(report.own_seconds for report in found) else []


def peak_memory_bytes(device: torch.device) -> int:
    if device.type == "cpu":
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return torch.accelerator.max_memory_allocated(device)
