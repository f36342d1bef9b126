"""Exactly one run per output directory.

`<output_dir>.lock` names its owner as JSON: {"pid", "process_started", "host", "boot_id",
"pid_namespace", "run_label", "started_at"}. The file is only read and changed under a guard lock,
so two starters never both see it free; the guard is the hidden file beside it and stays there,
because removing a lock file that others may be waiting for would split them.
"""

import json
import logging
import os
from pathlib import Path
from types import TracebackType

import filelock

from pipeline.errors import RunLockedError
from pipeline.files import write_json
from pipeline.runs.owner import Owner, Standing

logger = logging.getLogger(__name__)

# The guard is held for one small read and write; a longer wait means a hung file system.
GUARD_TIMEOUT_SECONDS = 30


class RunLock:
    """Own `output_dir` while the block runs.

    Raises: RunLockedError: on entry, when a live process, a process of another host, or an
        unreadable lock file stands in the way, or the lock file cannot be written.
    """

    def __init__(self, output_dir: Path, run_label: str) -> None:
        self.path = lock_path(output_dir)
        self.run_label = run_label
        self._owner: Owner | None = None

    def __enter__(self) -> "RunLock":
        mine = Owner.current(self.run_label)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _guard(self.path):
                self._displace_dead_owner()
                write_json(self.path, mine.to_json())
        except filelock.Timeout as error:
            raise RunLockedError(
                f"{self.path}: waited {GUARD_TIMEOUT_SECONDS} s for another process that is "
                "starting on this output_dir; try again"
            ) from error
        except OSError as error:
            raise RunLockedError(
                f"{self.path}: cannot take the run lock ({error.strerror or error}); choose an "
                "output_dir that you may write to"
            ) from error
        self._owner = mine
        return self

    def _displace_dead_owner(self) -> None:
        found = _read_owner(self.path)
        if found is None:
            return
        if found.standing() is not Standing.DEAD:
            raise RunLockedError(_refusal(self.path, found))
        logger.warning(
            "took over %s: its owner %s (pid %d, since %s) is gone",
            self.path,
            found.run_label,
            found.pid,
            found.started_at,
        )

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A forked child leaves the block too, and must not free what its parent still owns.
        if self._owner is None or self._owner.pid != os.getpid():
            return
        try:
            with _guard(self.path):
                if _read_owner(self.path) == self._owner:
                    self.path.unlink()
        except (OSError, RunLockedError) as failure:
            # The run's own result matters more; the next starter sees a dead owner and goes on.
            logger.warning("could not remove %s: %s", self.path, failure)
        self._owner = None


def lock_path(output_dir: Path) -> Path:
    """Where the lock of `output_dir` lies, the same for every spelling of the directory."""
    resolved = output_dir.resolve()
    return resolved.with_name(resolved.name + ".lock")


def live_owner(output_dir: Path) -> Owner | None:
    """Who holds `output_dir`, without changing anything.

    Returns: the owner when it lives or cannot be judged from here; None when a run may start.
    Raises: RunLockedError: the lock file cannot be read.
    """
    owner = _read_owner(lock_path(output_dir))
    return None if owner is None or owner.standing() is Standing.DEAD else owner


def _guard(path: Path) -> filelock.FileLock:
    return filelock.FileLock(path.with_name(f".{path.name}.guard"), timeout=GUARD_TIMEOUT_SECONDS)


def _read_owner(path: Path) -> Owner | None:
    try:
        return Owner.from_json(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunLockedError(
            f"{path}: not a readable run lock ({error}); remove it if no run uses this output_dir"
        ) from error


def _refusal(path: Path, owner: Owner) -> str:
    who = f"{owner.run_label} (pid {owner.pid} on {owner.host}) since {owner.started_at}"
    if owner.standing() is Standing.LIVE:
        return (
            f"{path}: the output_dir is in use by {who}; wait for it, stop it with "
            f"`kill -TERM {owner.pid}`, or choose another output_dir"
        )
    return (
        f"{path}: the output_dir is in use by {who}, which cannot be seen from this host; remove "
        "the file if that machine or container is gone, or choose another output_dir"
    )
