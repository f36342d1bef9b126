"""Says where a rank waits when no step ends: a collective that others never reach, a dead disk."""

import logging
import sys
import threading
import time
import traceback
from statistics import median

logger = logging.getLogger(__name__)

_TIMES_MEDIAN = 20
_LEAST_SECONDS = 60.0
_STEPS_REMEMBERED = 64


class StallWatch:
    """A thread that looks at the one it was made in, between `begin` and `end` of a step.

    Every stalled step is reported once, with the stack of that thread; the run goes on.
    """

    def __init__(self, rank: int, limit_seconds: float | None) -> None:
        """`limit_seconds`: None: `_TIMES_MEDIAN` times the usual step, at least `_LEAST_SECONDS`;
        0: never."""
        self._rank = rank
        self._limit = limit_seconds
        self._watched = threading.get_ident()
        self._seconds: list[float] = []
        self._step = 0
        self._started: float | None = None
        self._is_closed = False
        self._changed = threading.Condition()
        if limit_seconds != 0:
            threading.Thread(target=self._run, name="stall watch", daemon=True).start()

    def begin(self, step: int) -> None:
        with self._changed:
            self._step, self._started = step, time.monotonic()
            self._changed.notify()

    def end(self) -> None:
        with self._changed:
            if self._started is not None:
                self._seconds.append(time.monotonic() - self._started)
                del self._seconds[:-_STEPS_REMEMBERED]
            self._started = None
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._started, self._is_closed = None, True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._started is not None or self._is_closed)
                if self._is_closed:
                    return
                started, limit = self._started, self._limit_now()
                is_reported = False
                while self._started == started and started is not None:
                    left = started + limit - time.monotonic()
                    if left <= 0 and not is_reported:
                        self._report(limit)
                        is_reported = True
                    # What is reported is waited for without an end.
                    self._changed.wait(left if left > 0 else None)

    def _limit_now(self) -> float:
        if self._limit is not None:
            return self._limit
        if not self._seconds:
            return 10 * _LEAST_SECONDS  # the first step compiles and allocates
        return max(_LEAST_SECONDS, _TIMES_MEDIAN * median(self._seconds))

    def _report(self, limit: float) -> None:
        frame = sys._current_frames().get(self._watched)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
        logger.error(
            "rank %d: step %d has not ended for %.0f seconds; it waits here (and goes on waiting, "
            "see ddp_timeout):\n%s",
            self._rank,
            self._step,
            limit,
            stack,
        )
