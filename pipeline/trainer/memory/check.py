"""The memory plan of a run: announced, compared with what the run takes, asked when it fails."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pipeline.errors import TrainError
from pipeline.trainer.memory.largest_batch import largest_batch, num_tokens
from pipeline.trainer.memory.measured import PeakMeter
from pipeline.trainer.memory.memory_plan import MemoryPlan, plan_run
from pipeline.trainer.memory.smaller import advice, changes_that_fit
from pipeline.trainer.memory.units import size_text
from pipeline.trainer.parallel.interface import Distributed
from pipeline.trainer.planned_run import PlannedRun

logger = logging.getLogger(__name__)

COMPARED_AFTER = 5
"""Steps of this process, by when the optimizer has its state."""
_OUT_OF_MEMORY = ("can't allocate memory", "cannot allocate memory", "bad_alloc")
"""What PyTorch on CPU, the operating system and C++ say."""


class MemoryCheck:
    """Made by every rank before it loads the model."""

    def __init__(self, run: PlannedRun, distributed: Distributed) -> None:
        self._run = run
        self._distributed = distributed
        self._predicted = self._predict() if distributed.is_main else None
        self._num_steps = 0
        self._measured: int | None = None
        self._meter = PeakMeter(distributed.device, distributed.ranks_per_node)

    def announce(self) -> None:
        if self._predicted is None:
            return
        room = self._meter.room_bytes
        logger.info("memory plan: %s; %s are free", self._predicted.describe(), size_text(room))
        if self._predicted.total > room:
            logger.warning("memory plan: more than is free; this may fail")

    @contextmanager
    def of_step(self, step: int) -> Iterator[None]:
        """Around one optimizer step. Raises: TrainError: out of memory, with what would help."""
        if self._num_steps == 0:
            self._meter.restart()
        with self.explained(step):
            yield
        self._num_steps += 1
        is_last = step == self._run.plan.total_steps
        if self._num_steps == COMPARED_AFTER or (is_last and self._num_steps < COMPARED_AFTER):
            self._compare()

    @contextmanager
    def explained(self, step: int | None) -> Iterator[None]:
        """`step` None: the model is loaded. Raises: TrainError: out of memory."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold the activations
            reason = str(error).strip().partition("\n")[0]
        else:
            return
        raise TrainError(self._explanation(step, reason))

    def to_record(self) -> dict[str, Any] | None:
        """On rank 0, else None."""
        if self._predicted is None:
            return None
        return {
            **self._predicted.to_record(),
            "measured_bytes": self._measured,
            "measured_as": "tensors" if self._meter.counts_tensors else "resident memory",
        }

    def _predict(self) -> MemoryPlan | None:
        return plan_run(
            self._run,
            self._distributed.world_size,
            on_accelerator=self._distributed.device.type != "cpu",
        )

    def _compare(self) -> None:
        """With the rank that took most."""
        measured = self._distributed.all_reduce([float(self._meter.peak_bytes() or 0)], "max")
        if self._predicted is None or not measured[0]:
            return
        self._measured = int(measured[0])
        found, planned = size_text(self._measured), size_text(self._predicted.total)
        when = f"memory after {self._num_steps} steps"
        if self._meter.counts_tensors:
            off = 100 * (self._predicted.total / self._measured - 1)
            logger.info("%s: %s measured, %s planned (%+.1f %%)", when, found, planned, off)
        else:
            logger.info(
                "%s: %s resident, with what libraries keep for themselves; %s planned for tensors",
                when,
                found,
                planned,
            )

    def _explanation(self, step: int | None, reason: str) -> str:
        when = "while the model was loaded" if step is None else self._micro_batches_of(step)
        planned = self._predict()
        if planned is None:
            return f"out of memory {when}: {reason}; {advice([])}"
        room = self._meter.room_bytes
        changes = changes_that_fit(
            self._run.args,
            largest_batch(self._run),
            planned,
            # It did not fit, whatever the plan says.
            min(room, int(0.9 * planned.total)),
            on_accelerator=self._distributed.device.type != "cpu",
        )
        largest = planned.largest_class
        return (
            f"out of memory {when}: {reason}. Of {size_text(planned.total)} planned for the "
            f"largest micro-batch of the run ({planned.rows} rows, {planned.tokens:,} tokens), "
            f"with {size_text(room)} free, {largest} take most "
            f"({size_text(planned.classes[largest])}); {advice(changes)}"
        )

    def _micro_batches_of(self, step: int) -> str:
        """The largest micro-batch of this rank in `step`, in words."""
        plan, concatenates = self._run.plan, self._run.args.concatenates
        tokens, examples = max(
            (num_tokens(plan, documents, concatenates=concatenates), len(documents))
            for documents in plan.micro_batches(step, self._distributed.data_rank)
        )
        return f"in step {step}, micro-batches of up to {examples} examples and {tokens:,} tokens"


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return any(sign in text for sign in _OUT_OF_MEMORY)
