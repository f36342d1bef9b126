"""How much memory this process really took for the model, at most."""

import contextlib
import resource
from pathlib import Path

import psutil
import torch

_STATUS = Path("/proc/self/status")
_MAPPINGS = Path("/proc/self/smaps")
_CLEAR = Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"  # Linux, Documentation/filesystems/proc.rst: "reset the peak resident set size"


class PeakMeter:
    """Made before the model is loaded: what was there already does not count.

    On an accelerator bytes of tensors (the allocator's peak); on CPU resident memory without the
    code of libraries, but with what they keep: oneDNN a kernel for every shape it has met. CPUs
    outside Linux are not measured.
    """

    def __init__(self, device: torch.device, num_processes: int) -> None:
        """`num_processes` share the main memory of this machine."""
        self._device = device
        self.room_bytes = _room(device, num_processes)
        """What the model can have."""
        self.counts_tensors = device.type != "cpu"
        """Nothing else."""
        self._before = 0 if self.counts_tensors else _without_code("VmRSS") or 0

    def restart(self) -> None:
        """Forget the peak so far: that of loading."""
        if self._device.type == "cpu":
            with contextlib.suppress(OSError):
                _CLEAR.write_text(_FORGET_PEAK)
        elif self._device.type != "mps":
            torch.accelerator.reset_peak_memory_stats(self._device)

    def peak_bytes(self) -> int | None:
        """Since `restart`. None: this machine does not say."""
        if self._device.type == "cpu":
            peak = _without_code("VmHWM")
            return None if peak is None else peak - self._before
        if self._device.type == "mps":
            return None
        return torch.accelerator.max_memory_allocated(self._device)


def _without_code(field: str) -> int | None:
    """Bytes, from a line like `VmHWM:  123 kB`, without the pages of shared libraries."""
    try:
        lines = _STATUS.read_text("ascii").splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith(f"{field}:")]
    return int(found[0][1]) * 1024 - _code_bytes() if found else None


def _code_bytes() -> int:
    """Resident pages of shared libraries, which are read in when they are first used."""
    total, is_library = 0, False
    for line in _MAPPINGS.read_text("utf-8", errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        if not fields[0].endswith(":"):  # address range, rights, offset, device, inode, path
            is_library = len(fields) == 6 and ".so" in Path(fields[5]).name
        elif is_library and fields[0] == "Rss:":
            total += int(fields[1]) * 1024
    return total


def _room(device: torch.device, num_processes: int) -> int:
    if device.type not in ("cpu", "mps"):
        return torch.accelerator.get_memory_info(device)[0]
    free = psutil.virtual_memory().available // num_processes
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return free
    return max(0, min(free, limit - psutil.Process().memory_info().vms))
