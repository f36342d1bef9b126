"""The process that writes checkpoints beside a rank. Imports no torch, so that it is soon there.

Its memory is a file without a name (memfd), mapped by the rank and by it: unlike /dev/shm, which
containers often limit to 64 MiB, it may be as large as the machine's memory.
"""

import ctypes
import logging
import mmap
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

from pipeline.errors import PipelineError
from pipeline.log import quiet_libraries
from pipeline.trainer.checkpoint.writer import Publication, WriteJob
from pipeline.trainer.stop import SIGNALS

_PR_SET_PDEATHSIG = 1


class SharedDescriptor:
    """A file descriptor as an argument of a process that is being started."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _receive, (reduction.DupFd(self.number),)


def _receive(passed: Any) -> SharedDescriptor:
    return SharedDescriptor(passed.detach())


def serve(connection: Connection, memory: SharedDescriptor, parent: int) -> None:
    """Do one job after the other until the rank is gone; answer each with `what_failed`."""
    _die_with(parent)
    for number in SIGNALS:  # they go to the whole process group; the rank decides what is saved
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    quiet_libraries()
    while True:
        try:
            job: WriteJob | Publication = connection.recv()
        except EOFError:
            return
        if isinstance(job, WriteJob):
            connection.send(what_failed(lambda job=job: _write(job, memory.number)))
        else:
            connection.send(what_failed(job))


def what_failed(work: Callable[[], None]) -> str:
    """Run it. Returns: why it failed, or an empty text."""
    try:
        work()
    except (OSError, PipelineError) as error:
        return str(error)
    except Exception:
        return traceback.format_exc()
    return ""


def _write(job: WriteJob, descriptor: int) -> None:
    size = max(stop for *_, stop in job.files) or 1  # nothing cannot be mapped
    job(memoryview(mmap.mmap(descriptor, size, prot=mmap.PROT_READ)))


def _die_with(parent: int) -> None:
    """A rank that was killed must not leave a writer that publishes behind the back of the next."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(1)
