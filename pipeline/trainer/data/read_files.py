"""What was found by reading whole files, so that a second start need not read them again.

    <beside the stores>/read_files.json   {"<path>": {"state": [device, inode, bytes, mtime, ctime],
                                                      "sha256": "...", "intact": true}}

A file is taken to be unchanged while its inode, size and times are. What that trusts: that whoever
writes to the file changes its ctime, as every system call does (setting the mtime back does, too).
It does not notice a disk that loses bits, or a clock that is set back; `sft tokenize --verify`
reads everything. Two writes within one tick of the file system's clock leave the same times, so
nothing is remembered of a file that changed in the last seconds.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.files import sha256_file, write_json

READ_FILES_FILE = "read_files.json"
_RECENT_SECONDS = 2.0


class ReadFiles:
    """Hashes and checks of files by their paths."""

    def __init__(self, memory: Path, *, trusted: bool = True) -> None:
        """`trusted`: believe what `memory` says; otherwise every file is read once more."""
        self._memory = memory
        self._known = _load(memory) if trusted else {}
        self._is_new = not trusted

    def sha256(self, file: Path) -> str:
        """Hex SHA-256 of the file's bytes."""
        return self._ask(file, "sha256", sha256_file)

    def is_intact(self, file: Path, check: Callable[[Path], bool]) -> bool:
        """Whether the file passes `check`, which reads all of it; that it did is remembered."""
        return self._ask(file, "intact", check)

    def save(self) -> None:
        """For the processes that come later; of files that are gone nothing is kept."""
        if self._is_new:
            known = {path: about for path, about in self._known.items() if Path(path).is_file()}
            write_json(self._memory, known, indent=None)
            self._is_new = False

    def _ask(self, file: Path, what: str, read: Callable[[Path], Any]) -> Any:
        path, asked_at = str(file.absolute()), time.time()
        try:
            state = _state(file)
        except FileNotFoundError:
            return read(file)
        about = self._known.get(path, {})
        if about.get("state") == state and what in about:
            return about[what]
        answer = read(file)
        is_old = asked_at - max(state[-2:]) / 1e9 > _RECENT_SECONDS
        if answer and is_old and _state(file) == state:
            kept = about if about.get("state") == state else {}
            self._known[path] = {**kept, "state": state, what: answer}
            self._is_new = True
        return answer


def _state(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _load(memory: Path) -> dict[str, dict[str, Any]]:
    try:
        known = json.loads(memory.read_bytes())
    except (OSError, ValueError):
        return {}
    known = known if isinstance(known, dict) else {}
    return {path: about for path, about in known.items() if isinstance(about, dict)}
