"""Limits on time and memory for code that comes with a model: its chat template.

Jinja's sandbox keeps a template from the machine, not from looping for hours over nested lists or
from multiplying a string until the machine swaps.
"""

import contextlib
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

MAX_SECONDS = 30.0
"""Far beyond any real template: a 200-turn conversation takes about 0.01 s."""
MAX_BYTES = 2 << 30


class TimeLimitError(Exception):
    """The code ran for too long."""


@contextlib.contextmanager
def limited(
    max_seconds: float = MAX_SECONDS, max_bytes: int = MAX_BYTES
) -> Iterator[Callable[[], None]]:
    """Run the body for at most `max_seconds`, allocating at most `max_bytes` more memory.

    Limits hold for the whole process meanwhile: nothing else should run in it. The time is
    limited in the main thread only, which is where signals are delivered.

    Yields: starts the time anew, for a body that runs such code many times.
    Raises: TimeLimitError, MemoryError: a limit was reached.
    """
    with _memory_limit(max_bytes), _time_limit(max_seconds) as restart:
        yield restart


@contextlib.contextmanager
def _time_limit(max_seconds: float) -> Iterator[Callable[[], None]]:
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def stop(signum: int, frame: object) -> None:
        raise TimeLimitError(f"it ran for more than {max_seconds:g} s")

    def restart() -> None:
        signal.setitimer(signal.ITIMER_REAL, max_seconds)

    handler = signal.signal(signal.SIGALRM, stop)
    restart()
    try:
        yield restart
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


@contextlib.contextmanager
def _memory_limit(max_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = _address_space_bytes() + max_bytes
    bounds = [bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([allowed, *bounds]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space_bytes() -> int:
    """Virtual memory of this process: what RLIMIT_AS counts (Linux)."""
    pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    return pages * resource.getpagesize()
