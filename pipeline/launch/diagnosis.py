"""Why a training failed, from what its ranks left behind.

A rank that fails writes an error.json, {"message": {"message": "<Class>: <text>", "extraInfo":
{"timestamp": ...}}}; the ranks that waited for it fail too, in the same second, and say only that
a connection is lost. The one to blame is the first that says something else.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError, DataError, LaunchError, PipelineError, TrainError
from pipeline.launch.supervise import Outcome

_TRAINER_ERRORS = {kind.__name__: kind for kind in (ConfigError, DataError, TrainError)}
_SIGNS = {
    "No space left on device": "the disk is full; free disk space, lower "
    "training.save_total_limit, or move infrastructure.artifacts_dir to another disk",
    "Signal 9 (SIGKILL)": "a rank was killed with SIGKILL, which is what the kernel does when "
    "memory runs out; use fewer ranks, a shorter cutoff_len or offload",
}
"""In the last lines -> the cause, where no rank could write it down."""
_ECHO = re.compile(r"Connection (closed|reset)|gloo|NCCL|TCPStore|DistNetworkError|DistBackend")


@dataclass(frozen=True, order=True)
class _RankError:
    """An error.json; the one to blame sorts first."""

    is_echo: bool
    """Only says that another rank is gone."""
    timestamp: int
    """Seconds since the epoch; too coarse to tell the cause from its echo."""
    kind: str
    text: str

    @classmethod
    def read(cls, error_file: Path) -> "_RankError | None":
        """None: cut short, or written by another program."""
        try:
            message = json.loads(error_file.read_bytes())["message"]
            timestamp = int(message["extraInfo"]["timestamp"])
            kind, _, text = message["message"].partition(": ")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        is_echo = kind not in _TRAINER_ERRORS and _ECHO.search(message["message"]) is not None
        lines = text.strip().splitlines() or ["(no message)"]
        return cls(is_echo, timestamp, kind, lines[0])


def diagnose(outcome: Outcome, rank_logs: Path, log_file: Path) -> PipelineError:
    """One line that names the cause: the first rank's error, or how the processes ended.

    Returns: an error of the class that the rank raised if that is one of the trainer's own.
    """
    where = f"whole log: {log_file}"
    found = [_RankError.read(file) for file in rank_logs.rglob("error.json")]
    first = min((error for error in found if error), default=None)
    if first is None or first.is_echo:
        # Only here: after another failure torchrun itself may kill what does not end.
        for sign, cause in _SIGNS.items():
            if any(sign in line for line in outcome.tail):
                return LaunchError(f"training failed: {cause}; {where}")
        if first is None:
            return LaunchError(f"training failed with exit status {outcome.returncode}; {where}")
    if first.kind in _TRAINER_ERRORS:
        return _TRAINER_ERRORS[first.kind](f"training failed: {first.text}; {where}")
    return LaunchError(f"training failed: {first.kind}: {first.text}; {where}")
