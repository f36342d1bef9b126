"""The `sft` command as its users start it: a process of its own, a config of its own."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parent.parent
ARGV = [sys.executable, "-m", "pipeline.cli"]
_FOREIGN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SFT_CONFIG", "SFT_RUN_ID", "SFT_SUPERVISOR")


def environment(**changes: str) -> dict[str, str]:
    """Ours without what would select another config or mark the command as a training rank."""
    kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return {**kept, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **changes}


def write_config(path: Path, **sections: dict[str, Any]) -> Path:
    """A copy of the shipped config with other values and artifacts beside it.

    `write_config(path, training={"max_steps": 2})` changes runtime_info.input.training.max_steps.
    """
    config = yaml.safe_load((ROOT / "config.yaml").read_text("utf-8"))
    given = config["runtime_info"]["input"]
    config["runtime_info"]["output"] = None
    given["training"] |= {"learning_rate": 3.0e-3, "max_steps": 2}
    given["infrastructure"]["artifacts_dir"] = str(path.parent / "artifacts")
    for section, values in sections.items():
        given[section] |= values
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    return path


def sft(
    *arguments: str | Path, timeout: float = 120, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*ARGV, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**env),
        cwd=Path("/"),
    )


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr that says why; fails if there is a traceback or more than one."""
    assert "Traceback" not in done.stderr, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == errors[0], done.stderr
    return errors[0].removeprefix("error: ")


class Running:
    """A command in the background whose output is read as it comes."""

    def __init__(self, *arguments: str | Path, **env: str) -> None:
        self.process = subprocess.Popen(
            [*ARGV, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(**env),
            cwd=Path("/"),
        )
        self.lines: list[str] = []
        self._seen: set[psutil.Process] = set()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, seconds: float = 60) -> str:
        """The first line that matches."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in list(self.lines):
                if re.search(pattern, line):
                    self.descendants()
                    return line
            assert self.process.poll() is None, f"ended before {pattern!r}:\n{self.text}"
            time.sleep(0.02)
        raise AssertionError(f"no line matches {pattern!r}:\n{self.text}")

    def descendants(self) -> set[psutil.Process]:
        """Every process started by the command so far, as often as this was called."""
        with contextlib.suppress(psutil.Error):
            self._seen |= set(psutil.Process(self.process.pid).children(recursive=True))
        return self._seen

    def ranks(self) -> list[psutil.Process]:
        found = []
        for process in self.descendants():
            with contextlib.suppress(psutil.Error):
                if "pipeline.trainer" in process.cmdline() and "RANK" in process.environ():
                    found.append(process)
        return found

    def signal(self, number: signal.Signals) -> None:
        self.descendants()
        self.process.send_signal(number)

    def end(self, seconds: float = 60) -> int:
        """Wait for the end. Returns: the exit status."""
        try:
            returncode = self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"still running:\n{self.text}") from error
        self._reader.join(5)
        return returncode

    def left(self) -> list[psutil.Process]:
        """Processes it started that still live."""
        return [p for p in self._seen if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def kill(self) -> None:
        for process in [*self.descendants(), psutil.Process(os.getpid())]:
            if process.pid != os.getpid():
                with contextlib.suppress(psutil.Error):
                    process.kill()
        self.process.kill()


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_bytes())


def index_of(config: Path) -> list[dict[str, Any]]:
    """The runs in the index of a config made by `write_config`."""
    return load(config.parent / "artifacts" / "index.yaml")["runs"]
