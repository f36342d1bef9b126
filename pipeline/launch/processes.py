"""Find and stop every process that one supervised command has started.

torchrun starts each worker in a session of its own and a worker may outlive it, so neither the
process group nor the parent is enough. What all of them inherit is the environment: each carries
the marker variable with a value that no other command has.
"""

import contextlib
import os
import signal
import time

import psutil

MARKER = "SFT_SUPERVISOR"
POLL_SECONDS = 0.1
KILL_SECONDS = 10.0
"""How long SIGKILL may take; only a process stuck in the kernel needs longer."""


class ProcessTree:
    """The processes that carry one marker value, and the descendants of the first of them."""

    def __init__(self, marker: str, root_pid: int) -> None:
        self._marker = marker
        self._root_pid = root_pid
        self._signalled: set[psutil.Process] = set()

    def alive(self) -> list[psutil.Process]:
        """Every live process of the command, re-parented ones included; never the caller."""
        found = {process for process in psutil.process_iter() if self._is_marked(process)}
        with contextlib.suppress(psutil.Error):
            # A program that overwrites its environment (to set its title) is still a descendant.
            root = psutil.Process(self._root_pid)
            if root.ppid() == os.getpid():
                found |= {root, *root.children(recursive=True)}
        return [process for process in found if _is_running(process)]

    def _is_marked(self, process: psutil.Process) -> bool:
        return _environment(process).get(MARKER) == self._marker and process.pid != os.getpid()

    def workers(self) -> list[psutil.Process]:
        """The training ranks: processes with RANK whose parent has none.

        A rank's own helpers (data loader processes) inherit RANK; they belong to the rank, which
        needs them until it has saved.
        """
        ranks = {
            process.pid: process for process in self.alive() if "RANK" in _environment(process)
        }
        found = []
        for process in ranks.values():
            with contextlib.suppress(psutil.Error):
                if process.ppid() not in ranks:
                    found.append(process)
        return found

    def request_stop(self) -> None:
        """SIGTERM to each worker once; to the whole tree when there is no worker yet.

        The launcher above the workers is left alone: torchrun answers SIGTERM by killing its
        workers 30 s later, whether they have saved or not. Call again for workers that came later.
        """
        for process in self.workers() or ([] if self._signalled else self.alive()):
            if process not in self._signalled:
                self._signalled.add(process)
                _send(process, signal.SIGTERM)

    def terminate(self) -> None:
        """SIGTERM to every process."""
        for process in self.alive():
            _send(process, signal.SIGTERM)

    def kill(self) -> list[psutil.Process]:
        """SIGKILL until nothing is left. Returns: what survived for KILL_SECONDS."""
        deadline = time.monotonic() + KILL_SECONDS
        while (left := self.alive()) and time.monotonic() < deadline:
            for process in left:
                _send(process, signal.SIGKILL)
            time.sleep(POLL_SECONDS)
        return left

    def wait(self, seconds: float) -> bool:
        """Wait until nothing is left. Returns: whether that happened within `seconds`."""
        deadline = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):  # another user's, gone, or a zombie
        return {}


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.Error):  # psutil refuses when the id has been reused
        process.send_signal(number)
