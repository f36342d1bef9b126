"""Signals to `sft run` are requests to stop well; this is where they arrive.

One `StopRequests` owns the handlers for a whole command, so that a signal between two steps, or
just before or after the training process, is not lost.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType, TracebackType

from pipeline.errors import InterruptedRun

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

# A closing terminal sends SIGHUP from the kernel and from the shell within milliseconds: one
# request, not two.
SAME_REQUEST_SECONDS = 0.5


class StopRequests:
    """Record the signals that ask to stop while the block runs; main thread only.

    A shell starts background commands with SIGINT ignored; it is handled all the same. SIGHUP
    stays ignored where it is (nohup), since to outlive the terminal is what nohup asks for.
    """

    def __init__(self) -> None:
        self.first: str | None = None
        """Name of the first signal, such as "SIGTERM"; None while there is none."""
        self.is_urgent = False
        """A second request has come: do not wait for anything any more."""
        self._asked_at: float | None = None
        self._interruptible = False
        self._pid = os.getpid()
        self._previous: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> "StopRequests":
        self._pid = os.getpid()
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if number == signal.SIGHUP and handler == signal.SIG_IGN:
                continue
            self._previous[number] = handler
            signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            # None: the handler was not set from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A forked worker inherits the handler, not the duty: it must still die of the signal.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.first = self.first or signal.Signals(number).name
        # Schedulers send SIGUSR1 some time before SIGTERM; the two together are no second request.
        if number != signal.SIGUSR1:
            now = time.monotonic()
            if self._asked_at is None:
                self._asked_at = now
            elif now - self._asked_at >= SAME_REQUEST_SECONDS:
                self.is_urgent = True
        if self._interruptible:
            self._interruptible = False  # once: a second signal must not break the cleaning up
            self.check()

    def check(self) -> None:
        """Raises: InterruptedRun: a signal has arrived."""
        if self.first is not None:
            raise InterruptedRun(f"stopped by {self.first}", saved=False)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal end the block at once instead of at the next `check`.

        For work that leaves nothing half-written and may take long, such as conversion.
        Raises: InterruptedRun: a signal has arrived, before or in the block.
        """
        self._interruptible = True
        try:
            self.check()
            yield
        finally:
            self._interruptible = False
