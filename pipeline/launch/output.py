"""What a child process prints, on its way to the terminal, the log file and the record."""

import collections
import datetime
import logging
import os
import re
import sys
import threading
from typing import IO

from pipeline.runs.redact import redact_text

logger = logging.getLogger(__name__)

TAIL_LINES = 200
CHUNK_BYTES = 1 << 16
MAX_LINE_BYTES = 1 << 20

# Colours and cursor movements of ECMA-48: noise in a file, and progress bars use them to overwrite.
CONTROL_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class LineReader:
    """Cut a stream of bytes into lines; of a line redrawn with carriage returns, only the last
    state remains, so a progress bar of 10,000 updates is one line."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that `chunk` completes, without line ends."""
        *complete, self._pending = (self._pending + chunk).split(b"\n")
        lines = [_last_state(line) for line in complete]
        if b"\r" in self._pending:
            end = b"\r" if self._pending.endswith(b"\r") else b""
            self._pending = _last_drawn(self._pending) + end
        if len(self._pending) > MAX_LINE_BYTES:
            lines += self.flush()
        return lines

    def flush(self) -> list[str]:
        """The unfinished last line, if any."""
        line, self._pending = _last_state(self._pending), b""
        return [line] if line else []


def _last_drawn(line: bytes) -> bytes:
    return next((part for part in reversed(line.split(b"\r")) if part.strip()), b"")


def _last_state(line: bytes) -> str:
    return CONTROL_SEQUENCE.sub("", _last_drawn(line).decode("utf-8", "replace"))


class OutputCopy(threading.Thread):
    """Copy every line of `stream` to `log` (with a UTC time stamp) and, if `echo`, to stderr.

    Secrets are redacted on the way. The stream is drained whatever happens to its copies, because
    a full pipe would stop the training.
    """

    def __init__(self, stream: IO[bytes], log: IO[bytes], *, echo: bool) -> None:
        super().__init__(name="output-copy", daemon=True)
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self._stream = stream
        self._log: IO[bytes] | None = log
        self._echo = echo

    def run(self) -> None:
        reader = LineReader()
        while chunk := os.read(self._stream.fileno(), CHUNK_BYTES):
            self._copy(reader.feed(chunk))
        self._copy(reader.flush())

    def _copy(self, lines: list[str]) -> None:
        if not lines:
            return
        lines = [redact_text(line) for line in lines]
        self.tail.extend(lines)
        if self._echo:
            try:
                sys.stderr.write("".join(f"{line}\n" for line in lines))
                sys.stderr.flush()
            except (OSError, ValueError):  # the terminal is gone
                self._echo = False
        if self._log is not None:
            now = datetime.datetime.now(datetime.UTC)
            stamp = now.strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond // 1000:03d}Z"
            try:
                self._log.write("".join(f"{stamp} {line}\n" for line in lines).encode())
                self._log.flush()
            except (OSError, ValueError) as error:
                logger.warning("the log file is not written any further: %s", error)
                self._log = None
