"""The loop's side of saving: which save is under way, and what has become of it.

A save has two stages, whether processes beside the ranks work on it or the ranks themselves: every
rank's files are written; then the main rank publishes the checkpoint. Ranks learn of each other's
progress from the sums of their votes, which the loop adds to the reduction that every step has
anyway. There are never two saves under way.
"""

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.errors import TrainError
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.checkpoint.background import BackgroundWriter, can_save_in_background
from pipeline.trainer.checkpoint.inline import InlineWriter
from pipeline.trainer.checkpoint.random_state import random_state, random_state_file
from pipeline.trainer.checkpoint.state_files import StateFile, state_files
from pipeline.trainer.checkpoint.writer import Publication
from pipeline.trainer.parallel.interface import Distributed
from pipeline.trainer.parallel.parts import WEIGHT
from pipeline.trainer.parallel.strategy import Strategy

logger = logging.getLogger(__name__)

_MAX_FAILURES = 2
"""Saves in a row that may fail: a full disk may be cleared, but nobody trains for days in vain."""


class Writer(Protocol):
    """Does the work of a save, here or in another process; one job at a time."""

    def write(
        self, partial: Path, rank: int, files: list[StateFile], extras: dict[str, bytes]
    ) -> None:
        """Start to write; when it returns, the live tensors may change again."""
        ...

    def publish(self, publication: Publication) -> None:
        """Start to make a checkpoint of what all ranks have written."""
        ...

    def outcome(self, *, wait: bool) -> str | None:
        """Of the last job: why it failed, an empty text if it did not, None while it works."""
        ...

    def close(self) -> None: ...


def make_writer(args: TrainArgs, distributed: Distributed) -> Writer:
    if args.async_save and can_save_in_background():
        return BackgroundWriter(distributed.ranks_per_node)
    return InlineWriter()


@dataclass
class _Save:
    publication: Publication
    stalled_seconds: float
    """How long training waited for it."""
    publishing: bool = False
    outcome: str | None = None
    """Of this rank's work in the present stage; see `Writer.outcome`."""


class Saver:
    """Called by all ranks alike: what raises on one of them raises on all."""

    def __init__(self, strategy: Strategy, distributed: Distributed, writer: Writer) -> None:
        self._strategy = strategy
        self._distributed = distributed
        self._writer = writer
        self._save: _Save | None = None
        self._failures = 0

    def save(self, publication: Publication, extras: dict[str, bytes]) -> None:
        """Start to save the state as it is now; `extras` are small files of this rank.

        Raises: TrainError: saves keep failing.
        """
        started = time.monotonic()
        self.settle()
        rank = self._distributed.rank
        parts = self._strategy.state()
        if publication.manifest is None:
            parts = [part for part in parts if part.slot == WEIGHT]
        else:
            extras = {**extras, random_state_file(rank): random_state()}
        self._writer.write(publication.partial, rank, state_files(parts, rank), extras)
        self._save = _Save(publication, time.monotonic() - started)

    def settle(self, *, must_succeed: bool = False) -> None:
        """Wait until no save is under way.

        Raises: TrainError: it failed, and it must not, or it was not the first in a row.
        """
        if must_succeed and self._save is not None:
            self._failures = _MAX_FAILURES - 1
        while self._save is not None:
            self.count(self._distributed.all_reduce(self._votes(wait=True)))

    def votes(self) -> list[float]:
        """What this rank says of the save under way: its work is over; it failed."""
        return self._votes(wait=False)

    def count(self, votes: list[float]) -> None:
        """Go on as the sums of all ranks' votes say.

        Raises: TrainError: saves keep failing.
        """
        save, (over, failed) = self._save, votes
        if save is None or over < self._distributed.world_size:
            return
        if failed:
            self._save = None
            self._fail(save)
        elif save.publishing:
            self._save = None
            self._failures = 0
            logger.info(
                "saved %s; training waited %.2f s", save.publication.target, save.stalled_seconds
            )
        else:
            save.publishing, save.outcome = True, None
            if self._distributed.is_main:
                started = time.monotonic()
                self._writer.publish(save.publication)
                save.stalled_seconds += time.monotonic() - started

    def close(self) -> None:
        self._writer.close()

    def _votes(self, *, wait: bool) -> list[float]:
        save = self._save
        if save is None:
            return [0.0, 0.0]
        if save.outcome is None:
            works = self._distributed.is_main or not save.publishing
            started = time.monotonic()
            save.outcome = self._writer.outcome(wait=wait) if works else ""
            save.stalled_seconds += time.monotonic() - started
        return [float(save.outcome is not None), float(bool(save.outcome))]

    def _fail(self, save: _Save) -> None:
        reasons = self._distributed.all_gather(save.outcome)
        reason = next(reason for reason in reasons if reason)
        if self._distributed.is_main:
            shutil.rmtree(save.publication.partial, ignore_errors=True)
        self._failures += 1
        what = f"{save.publication.target}: not saved: {reason}"
        if self._failures >= _MAX_FAILURES:
            raise TrainError(
                f"{what}; the run ends, because a crash would lose what it trains from here on. "
                "Remove the cause and continue with training.resume_from_checkpoint=latest"
            )
        logger.error("%s; the checkpoint before it is intact. Training goes on", what)
