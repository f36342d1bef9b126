"""What this machine is: accelerators, cores, memory, disk, host, software, state of the project.

Nothing here imports torch, so the dry run and the record can ask in milliseconds. Whatever cannot
be found out is None or empty; only the caller knows whether that is an error.
"""

import functools
import importlib.metadata
import math
import os
import platform
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

CGROUP_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Accelerator:
    """One NVIDIA device (or MIG slice) that a process started now would see."""

    uuid: str
    name: str
    memory_bytes: int
    free_bytes: int


def accelerators() -> list[Accelerator]:
    """The visible NVIDIA devices, in the order of CUDA_VISIBLE_DEVICES.

    Without the library or a driver there are none. Other vendors' devices are not counted, since
    the native engine would not use them.
    """
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = {}
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            handles[_text(pynvml.nvmlDeviceGetUUID(handle))] = handle
        selection = os.environ.get("CUDA_VISIBLE_DEVICES")
        found = []
        for uuid in visible_uuids(selection, list(handles)):
            handle = handles.get(uuid) or pynvml.nvmlDeviceGetHandleByUUID(uuid.encode())
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            name = _text(pynvml.nvmlDeviceGetName(handle))
            found.append(Accelerator(uuid, name, int(memory.total), int(memory.free)))
        return found
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def visible_uuids(selection: str | None, uuids: list[str]) -> list[str]:
    """What CUDA_VISIBLE_DEVICES selects: indices, UUIDs, unique UUID prefixes, or MIG UUIDs.

    As the driver reads it: unset means all, everything from the first invalid entry on is ignored
    (so "" and "-1" mean none), and a device named twice means none.
    Source: CUDA C++ Programming Guide, "CUDA Environment Variables".
    """
    if selection is None:
        return uuids
    chosen: list[str] = []
    for entry in (part.strip() for part in selection.split(",")):
        if entry.isdecimal():
            matches = uuids[int(entry) : int(entry) + 1]
        elif entry.startswith("MIG-"):
            matches = [entry]
        else:
            matches = [uuid for uuid in uuids if entry and uuid.startswith(entry)]
        if len(matches) != 1:
            break
        chosen += matches
    return chosen if len(set(chosen)) == len(chosen) else []


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def cpu_count() -> int:
    """Cores this process may use: affinity and cgroup quota considered, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    for directory in _cgroup_directories():
        quota, _, period = _read(directory / "cpu.max").partition(" ")
        if quota.isdecimal() and period.isdecimal():
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(cores, 1)


@dataclass(frozen=True)
class Memory:
    """Main memory in bytes, the smaller of the machine's and the cgroup's."""

    total_bytes: int
    available_bytes: int


def memory() -> Memory:
    """Main memory that this process may use."""
    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available
    for directory in _cgroup_directories():
        limit, used = _read(directory / "memory.max"), _read(directory / "memory.current")
        if limit.isdecimal() and used.isdecimal():
            # File cache counts as used but is given back on demand, as in psutil's `available`.
            stat = dict(
                line.split(" ", 1) for line in _read(directory / "memory.stat").splitlines()
            )
            held = int(used) - int(stat.get("inactive_file", 0))
            total = min(total, int(limit))
            available = min(available, max(int(limit) - held, 0))
    return Memory(total, available)


def _cgroup_directories() -> list[Path]:
    """The cgroup (version 2) of this process and its ancestors: each may set a limit."""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        hierarchy, _, path = line.split(":", 2)
        if hierarchy == "0":
            group = CGROUP_ROOT / path.lstrip("/")
            return [d for d in (group, *group.parents) if d.is_relative_to(CGROUP_ROOT)]
    return []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def disk_free_bytes(path: Path) -> int:
    """Free bytes for this user on the disk where `path` is, or would be created."""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def hostname() -> str:
    return socket.gethostname()


@functools.cache
def boot_id() -> str:
    """Changes with every boot; the boot time where the system has no such id."""
    return _read(Path("/proc/sys/kernel/random/boot_id")) or f"booted-{int(psutil.boot_time())}"


def free_tcp_port() -> int:
    """A TCP port on the loopback that is free now; another process may take it before use.

    Raises: OSError: no port is left.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def package_versions() -> dict[str, str]:
    """Every installed distribution and its version, sorted by name."""
    found = {}
    for distribution in importlib.metadata.distributions():
        # A half-removed package has metadata without a name; the first on sys.path is imported.
        if name := distribution.metadata["Name"]:
            found.setdefault(name, distribution.version)
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def compiler() -> str | None:
    """Path of the C++ compiler that torch and DeepSpeed would build extensions with."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def describe() -> dict[str, Any]:
    """Everything above but the packages, as JSON for the run record."""
    ram = memory()
    return {
        "host": hostname(),
        "boot_id": boot_id(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "python_executable": sys.executable,
        "cpu_count": cpu_count(),
        "cpu_model": _cpu_model(),
        "memory_total_bytes": ram.total_bytes,
        "memory_available_bytes": ram.available_bytes,
        "accelerators": [vars(device) for device in accelerators()],
        "nvidia_driver": _nvidia_driver(),
        "compiler": compiler(),
    }


def _cpu_model() -> str:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor()


def _nvidia_driver() -> str | None:
    return _read(Path("/sys/module/nvidia/version")) or None
