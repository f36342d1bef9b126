"""A signal is a request to stop well: finish the step, save, end."""

import signal
from types import FrameType

from pipeline.errors import InterruptedRun

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class StopRequest:
    """Remembers the first signal. Until `training` is set there is nothing to save: it raises."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self.training = False
        for number in SIGNALS:
            signal.signal(number, self._receive)

    def check(self) -> None:
        """Raises: InterruptedRun: a signal came, and the library whose import it interrupted has
        caught what `_receive` raised."""
        if self.signal_name is not None:
            raise InterruptedRun(
                f"{self.signal_name} before the first step; nothing to save", saved=False
            )

    def begin_training(self) -> None:
        """From now on the loop looks for signals. Raises: InterruptedRun: as `check`."""
        self.training = True
        self.check()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = self.signal_name or signal.Signals(number).name
        if not self.training:
            self.check()
