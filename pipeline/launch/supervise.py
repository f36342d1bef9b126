"""Run one command so that it can be stopped well and never leaves a process behind.

The command gets a session of its own (Ctrl-C in the terminal reaches us alone), the environment
variables SFT_RUN_ID and SFT_SUPERVISOR (inherited by everything it starts), and SIGTERM from the
kernel if we are killed. A signal to us becomes SIGTERM to the training workers, which save and end
by themselves; after the grace period, or when asked again, everything is killed.
"""

import contextlib
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import LaunchError
from pipeline.launch import tether
from pipeline.launch.output import OutputCopy
from pipeline.launch.processes import MARKER, POLL_SECONDS, ProcessTree
from pipeline.launch.signals import StopRequests

logger = logging.getLogger(__name__)

SCAN_SECONDS = 0.5
"""How often new workers are looked for while stopping."""
TERM_SECONDS = 5.0
"""From SIGTERM to SIGKILL when stopping by force."""
LEAVE_SECONDS = 2.0
"""For helpers of a command that has ended to end as well."""


@dataclass(frozen=True)
class Outcome:
    """How a supervised command ended."""

    returncode: int
    """As `subprocess`: negative is the signal the command itself died of."""
    signal_received: str | None
    """The signal to us that was passed on while the command ran, such as "SIGTERM"."""
    killed: bool
    """Stopped by force: the grace period was over, or the request was repeated."""
    tail: list[str]
    """The last lines it printed, redacted."""


def run_supervised(
    argv: list[str],
    *,
    env: dict[str, str],
    log_file: Path,
    run_id: str,
    grace_seconds: float,
    echo: bool,
    stop: StopRequests | None = None,
) -> Outcome:
    """Run `argv` to its end; afterwards none of its processes is left.

    Args:
        env: the whole environment. RANK marks a worker, so a launcher must be given none.
        log_file: appended to; every line gets a time stamp.
        grace_seconds: how long the workers may take to save after a signal.
        echo: also copy the output to our stderr.
        stop: the owner of the signal handlers; without one, they are owned for this call.
    Raises:
        LaunchError: the command or the log file cannot be opened.
        InterruptedRun: a signal had arrived before the start.
    """
    if shutil.which(argv[0], path=env.get("PATH")) is None:
        raise LaunchError(
            f"{argv[0]}: command not found; run `bash scripts/install.sh`, which installs it"
        )
    with contextlib.ExitStack() as stack:
        stop = stop or stack.enter_context(StopRequests())
        stop.check()
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what a full disk refuses must not come up again when the file is closed.
            log = stack.enter_context(log_file.open("ab", buffering=0))
        except OSError as error:
            raise LaunchError(
                f"{log_file}: cannot write the log ({error.strerror}); free disk space or choose "
                "another artifacts_dir"
            ) from error
        marker = secrets.token_hex(16)
        child = _start(argv, env | {"SFT_RUN_ID": run_id, MARKER: marker})
        tree = ProcessTree(marker, child.pid)
        assert child.stdout is not None, "stdout is a pipe"
        copy = OutputCopy(child.stdout, log, echo=echo)
        copy.start()
        signal_received, killed = None, False
        try:
            signal_received, killed = _watch(child, tree, stop, grace_seconds)
        finally:
            _leave_nothing(tree, at_once=killed)
            # Nothing of ours holds the pipe any more; what is buffered in it arrives at once.
            copy.join(timeout=TERM_SECONDS)
        returncode = child.poll()
        if returncode is None:  # stuck in the kernel, as logged; waiting would hang us as well
            returncode = -signal.SIGKILL
        return Outcome(returncode, signal_received, killed, list(copy.tail))


def _start(argv: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    tethered = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *argv]
    return subprocess.Popen(
        tethered,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _watch(
    child: subprocess.Popen[bytes], tree: ProcessTree, stop: StopRequests, grace_seconds: float
) -> tuple[str | None, bool]:
    """Wait for the command to end. Returns: the signal passed on, and whether patience ran out."""
    deadline = next_scan = 0.0
    signal_received = None
    while child.poll() is None:
        now = time.monotonic()
        if stop.first is not None and signal_received is None:
            signal_received = stop.first
            deadline = now + grace_seconds
            logger.warning(
                "%s: asked the training to save and stop; it is killed after %g s or at the next "
                "signal",
                signal_received,
                grace_seconds,
            )
        if signal_received is not None:
            if stop.is_urgent or now >= deadline:
                why = "asked again" if stop.is_urgent else f"not done after {grace_seconds:g} s"
                logger.warning("stopping the training by force: %s", why)
                return signal_received, True
            if now >= next_scan:
                tree.request_stop()
                next_scan = time.monotonic() + SCAN_SECONDS
        time.sleep(POLL_SECONDS)
    return signal_received, False


def _leave_nothing(tree: ProcessTree, *, at_once: bool) -> None:
    if not at_once and tree.wait(LEAVE_SECONDS):
        return
    left = tree.alive()
    if not left:
        return
    logger.warning("stopping %d processes: %s", len(left), ", ".join(str(p.pid) for p in left))
    tree.terminate()
    if tree.wait(TERM_SECONDS):
        return
    for process in tree.kill():
        logger.error("process %d does not react to SIGKILL; it may hold its device", process.pid)
