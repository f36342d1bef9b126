"""What a command takes, with all the processes that it starts: time, CPU and memory."""

import contextlib
import json
import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

_ROOT = Path(__file__).resolve().parent.parent


class _Usage(threading.Thread):
    """What a process and all below it take: bytes of memory, seconds of CPU."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._cpu_seconds: dict[int, float] = {}
        self.largest_bytes = self.tree_bytes = 0

    @property
    def cpu_seconds(self) -> float:
        """As last seen of each process; workers are nobody's children when they end."""
        return sum(self._cpu_seconds.values())

    def run(self) -> None:
        while self._root.is_running() and self._root.status() != psutil.STATUS_ZOMBIE:
            sizes = [0]
            with contextlib.suppress(psutil.Error):
                for process in (self._root, *self._root.children(recursive=True)):
                    times = process.cpu_times()
                    self._cpu_seconds[process.pid] = times.user + times.system
                    sizes.append(process.memory_info().rss)
            self.largest_bytes = max(self.largest_bytes, *sizes)
            self.tree_bytes = max(self.tree_bytes, sum(sizes))
            time.sleep(0.02)


def measured(argv: list[str], *paths: Path) -> dict[str, Any]:
    """Run a command whose last line of output is JSON with `tokens` and `seconds`."""
    environment = {
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(
            [str(_ROOT), os.environ.get("PYTHONPATH", ""), *map(str, paths)]
        ),
        "TOKENIZERS_PARALLELISM": "false",
    }
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            argv, stdout=output, stderr=errors, text=True, env=os.environ | environment
        )
        usage = _Usage(process.pid)
        usage.start()
        usage.join()
        output.seek(0)
        errors.seek(0)
        if process.wait() != 0:
            raise SystemExit(f"{argv[0]}: {errors.read()[-2000:]}")
        found = json.loads(output.read().splitlines()[-1])
    return {
        "tokens": found["tokens"],
        "seconds": round(found["seconds"], 2),
        "cpu_seconds": round(usage.cpu_seconds, 2),
        "mtok_per_cpu_second": round(found["tokens"] / usage.cpu_seconds / 1e6, 3),
        "peak_rss_mb": round(usage.largest_bytes / 1e6),
        "peak_rss_tree_mb": round(usage.tree_bytes / 1e6),
        **{key: found[key] for key in ("bytes_per_token", "encoder") if key in found},
    }
