"""Hands log lines to trackers from threads of their own: no step waits, and no outage loses one.

What a tracker does not take is tried again, later and later, in the same order. What it has not
taken when the run ends is kept in <output_dir>/undelivered_<tracker>.jsonl and goes out first when
the run is resumed. A kill loses nothing either: every line is in trainer_log.jsonl.
"""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from pipeline.files import write_text
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.reporting.trackers import (
    MLflow,
    Numbers,
    TensorBoard,
    Tracker,
    Trackio,
    Wandb,
    asked_for,
    new_wandb_run_id,
)

logger = logging.getLogger(__name__)

_LONGEST_PAUSE_SECONDS = 60.0
_PATIENCE_SECONDS = 30.0
"""How long the end of a run waits for a tracker that does not answer."""


class Delivery:
    """The line to one tracker."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], Tracker],
        backlog: Path,
        *,
        first_pause_seconds: float = 1.0,
    ) -> None:
        self._name = name
        self._connect = connect
        self._backlog = backlog
        self._first_pause = first_pause_seconds
        self._entries: deque[tuple[int, Numbers]] = deque(_read(backlog))
        self._changed = threading.Condition()
        self._deadline: float | None = None  # set when the run ends
        self._thread = threading.Thread(target=self._run, name=f"to {name}", daemon=True)
        self._thread.start()

    def put(self, step: int, numbers: Numbers) -> None:
        with self._changed:
            self._entries.append((step, numbers))
            self._changed.notify()

    def close(self, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        """Deliver what is left, or keep it in a file."""
        with self._changed:
            self._deadline = time.monotonic() + patience_seconds
            self._changed.notify()
        self._thread.join(patience_seconds + 1)
        with self._changed:
            left = list(self._entries)
        if left:
            lines = (json.dumps({"step": step, "numbers": numbers}) for step, numbers in left)
            write_text(self._backlog, "".join(f"{line}\n" for line in lines))
            logger.warning(
                "%s did not take %d log lines; they are in %s and go out when the run is resumed",
                self._name,
                len(left),
                self._backlog,
            )
        else:
            self._backlog.unlink(missing_ok=True)

    def _run(self) -> None:
        tracker: Tracker | None = None
        failures = 0
        while self._has_work():
            try:
                tracker = tracker or self._connect()
                tracker.log(*self._entries[0])
            except Exception as error:  # whatever a tracker raises must not end a training
                failures += 1
                if failures == 1:
                    logger.warning("%s: %s; training goes on, retrying", self._name, error)
                if not self._pause(failures):
                    return
                continue
            if failures:
                logger.info("%s takes log lines again", self._name)
                failures = 0
            with self._changed:
                self._entries.popleft()
        if tracker is not None:
            try:
                tracker.close()
            except Exception as error:  # as above
                logger.warning("%s: cannot close the run: %s", self._name, error)

    def _has_work(self) -> bool:
        """Waits for an entry. Returns: False: the run has ended and all is delivered."""
        with self._changed:
            self._changed.wait_for(lambda: self._entries or self._deadline is not None)
            return bool(self._entries)

    def _pause(self, failures: int) -> bool:
        """Returns: False: the run has ended and there is no more time."""
        seconds = min(self._first_pause * 2 ** (failures - 1), _LONGEST_PAUSE_SECONDS)
        with self._changed:
            self._changed.wait_for(lambda: self._deadline is not None, timeout=seconds)
            if self._deadline is None:
                return True
            left = self._deadline - time.monotonic()
        if left > 0:
            time.sleep(min(self._first_pause, left))
        return left > 0


class Deliveries:
    """The lines to all trackers of a run. Sends the numbers of a log line, nothing else of it."""

    def __init__(self, args: TrainArgs) -> None:
        names = asked_for(args.report_to)
        self.wandb_run_id = new_wandb_run_id() if "wandb" in names else None
        connect: dict[str, Callable[[], Tracker]] = {
            "tensorboard": lambda: TensorBoard(args),
            "wandb": lambda: Wandb(args, str(self.wandb_run_id)),
            "trackio": lambda: Trackio(args),
            "mlflow": lambda: MLflow(args),
        }
        output_dir = Path(args.output_dir)
        self._lines = [
            Delivery(name, connect[name], output_dir / f"undelivered_{name}.jsonl")
            for name in names
        ]

    def send(self, step: int, line: dict[str, object]) -> None:
        numbers = {
            _shown(key): float(value)
            for key, value in line.items()
            if isinstance(value, int | float)
        }
        for delivery in self._lines:
            delivery.put(step, numbers)

    def close(self) -> None:
        for delivery in self._lines:
            delivery.close()
        self._lines = []


def _shown(key: str) -> str:
    name = key.removeprefix("eval_")
    return f"train/{key}" if name == key else f"eval/{name}"


def _read(backlog: Path) -> list[tuple[int, Numbers]]:
    if not backlog.is_file():
        return []
    entries = map(json.loads, backlog.read_text("utf-8").splitlines())
    return [(entry["step"], entry["numbers"]) for entry in entries]
