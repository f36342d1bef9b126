"""How much memory a rank will need, by class, before the model is loaded.

One process is simulated tensor by tensor (`fake_step`); what strategies divide among ranks follows
from their rules (`division`).
"""

import logging
import os
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.errors import PipelineError
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.collate import MicroBatch
from pipeline.trainer.memory.division import (
    Zero,
    divided_by_fsdp,
    divided_by_zero,
    whole_on_every_rank,
)
from pipeline.trainer.memory.fake_step import (
    GRADIENTS,
    OPTIMIZER,
    WEIGHTS,
    StepMemory,
    simulate_step,
)
from pipeline.trainer.memory.largest_batch import batch_like, largest_batch
from pipeline.trainer.memory.units import size_text, unit_of
from pipeline.trainer.parallel.fsdp_config import sharding_of
from pipeline.trainer.planned_run import PlannedRun

logger = logging.getLogger(__name__)


KnownSteps = dict[bool, StepMemory]
"""By whether layers run in bf16 with fp32 weights elsewhere."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one rank at its peak."""

    classes: dict[str, int]
    """On the device."""
    host: int
    """What offloading keeps in main memory instead."""
    num_ranks: int
    tokens: int
    """Of the largest micro-batch, with padding."""
    rows: int

    @property
    def total(self) -> int:
        return sum(self.classes.values())

    @property
    def without_batch(self) -> int:
        """What is needed however small the micro-batch is."""
        return sum(self.classes.get(name, 0) for name in (WEIGHTS, GRADIENTS, OPTIMIZER))

    @property
    def largest_class(self) -> str:
        return max(self.classes, key=self.classes.__getitem__)

    def describe(self) -> str:
        unit_name, unit = unit_of(self.total)
        parts = ", ".join(
            f"{name} {size / unit:.2f}"
            for name, size in sorted(self.classes.items(), key=lambda item: -item[1])
            if size >= 0.005 * self.total
        )
        host = f"; on the host {size_text(self.host)}" if self.host else ""
        total = f"{self.total / unit:.2f} {unit_name}"
        return f"{total} per rank at its peak ({parts}{host})"

    def to_record(self) -> dict[str, Any]:
        return {
            "predicted_bytes": self.total,
            "classes": self.classes,
            "host_bytes": self.host,
            "largest_micro_batch": {"rows": self.rows, "tokens": self.tokens},
        }


def plan_run(
    run: PlannedRun, num_ranks: int, *, on_accelerator: bool, known: KnownSteps | None = None
) -> MemoryPlan | None:
    """For the largest micro-batch of the run. None: the model computes with what it reads in its
    tensors, so it cannot be simulated. `known`: as in `memory_plan`."""
    try:
        return memory_plan(
            run.args,
            largest_batch(run),
            Zero.of(run.args, num_ranks),
            num_ranks=num_ranks,
            on_accelerator=on_accelerator,
            known=known,
        )
    except PipelineError:
        raise
    except Exception as error:  # a model of any shape, with code of its own
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        logger.warning("memory plan: not known for this model: %s", reason)
        return None


def memory_plan(
    args: TrainArgs,
    batch: MicroBatch,
    zero: Zero | None,
    *,
    num_ranks: int,
    on_accelerator: bool,
    known: KnownSteps | None = None,
) -> MemoryPlan:
    """Of training `batch`, which should be the largest of the run.

    What is in `known` is not simulated again, and what is simulated is added to it: for plans that
    differ in the strategy alone.

    Without `zero` the strategy is FSDP2, where the keys or Accelerate's environment ask for it, or
    DDP.
    """
    sharding = sharding_of(args, os.environ)
    low = args.bf16 if sharding is not None else zero is not None and zero.low
    rows, tokens = batch.input_ids.shape
    if args.sequence_parallel_size > 1:  # each rank has its part of every sequence
        share = -(-tokens // args.sequence_parallel_size)
        batch = batch_like(batch, rows, share)
        args = args.model_copy(update={"sequence_parallel_size": 1})
    known = {} if known is None else known
    if low not in known:
        known[low] = simulate_step(
            args,
            batch,
            dtype=torch.bfloat16 if low else torch.float32,
            autocast=args.bf16 and not low,
            accumulates=args.gradient_accumulation_steps > 1,
            on_accelerator=on_accelerator,
        )
    step = known[low]
    if sharding is not None:
        divided = divided_by_fsdp(
            step,
            sharding,
            num_ranks,
            2 if low else 4,
            has_adapters=args.finetuning_type == "lora",
        )
    elif zero is not None and zero.stage > 0:
        divided = divided_by_zero(step, zero, num_ranks)
    else:
        divided = whole_on_every_rank(step, num_ranks)
    classes = max((divided.passes, divided.update), key=lambda moment: sum(moment.values()))
    return MemoryPlan(
        classes={name: int(size) for name, size in classes.items() if size >= 1},
        host=int(divided.host) + step.offloaded,
        num_ranks=num_ranks,
        tokens=rows * tokens,
        rows=rows,
    )
