"""Which process owns something on disk, and whether that process is still there.

A process id alone says little: ids are reused, start over after a reboot, and mean another process
on another host or in another container. The start time, boot id, host and pid namespace beside it
make the answer exact on this machine and an honest "unknown" elsewhere.
"""

import dataclasses
import datetime
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from pipeline.launch.machine import boot_id, hostname


class Standing(StrEnum):
    """What can be said about an owner from here."""

    LIVE = "live"
    DEAD = "dead"
    UNKNOWN = "unknown"
    """Another host or container: its processes cannot be seen from here."""


@dataclass(frozen=True)
class Owner:
    """One process, identified beyond its id."""

    pid: int
    process_started: float
    """Clock ticks since boot on Linux, seconds since the epoch elsewhere; only compared."""
    host: str
    boot_id: str
    pid_namespace: str
    """Empty where the system has no such thing."""
    run_label: str
    started_at: str
    """UTC, ISO 8601 with Z."""

    @classmethod
    def current(cls, run_label: str) -> "Owner":
        """The calling process."""
        started = _process_start(os.getpid())
        assert started is not None, "the calling process exists"
        return cls(
            pid=os.getpid(),
            process_started=started,
            host=hostname(),
            boot_id=boot_id(),
            pid_namespace=_pid_namespace(),
            run_label=run_label,
            started_at=utc_now(),
        )

    @classmethod
    def from_json(cls, value: Any) -> "Owner":
        """The owner a file describes; keys of other writers are ignored.

        Raises: ValueError: a key is missing or has another type.
        """
        if not isinstance(value, dict):
            raise ValueError(f"not a mapping (got {type(value).__name__})")
        fields = {}
        for field in dataclasses.fields(cls):
            given = value.get(field.name)
            expected = (int, float) if field.type in (int, float) else str
            if not isinstance(given, expected):
                raise ValueError(f"{field.name} is missing or of another type (got {given!r})")
            fields[field.name] = given
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def standing(self) -> Standing:
        """Whether the process still runs, as far as it can be known from this host."""
        if self.host != hostname():
            return Standing.UNKNOWN
        if self.boot_id != boot_id():
            return Standing.DEAD
        if self.pid_namespace != _pid_namespace():
            return Standing.UNKNOWN
        return Standing.LIVE if _process_start(self.pid) == self.process_started else Standing.DEAD


def utc_now() -> str:
    """The current time as recorded everywhere: UTC, whole seconds, `2026-01-31T12:00:00Z`."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _process_start(pid: int) -> float | None:
    """When `pid` started; None when it does not run (any more)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _process_start_elsewhere(pid)
    # The command name may hold spaces and parentheses, so fields are counted from its last ")":
    # state is field 3 and starttime field 22 of proc(5). psutil's create_time adds the boot time,
    # which moves when the clock is set; the ticks do not.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else float(fields[19])


def _process_start_elsewhere(pid: int) -> float | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
