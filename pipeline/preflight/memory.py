"""Whether what a rank will need fits into its device."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.launch.auto_strategy import choose_deepspeed
from pipeline.launch.machine import memory
from pipeline.preflight.report import Check, Context
from pipeline.step2_train import nproc_per_node, visible_accelerators
from pipeline.trainer.keys.strategy import AUTO
from pipeline.trainer.memory.units import size_text

if TYPE_CHECKING:
    from pipeline.trainer.planned_run import PlannedRun

_TIGHT = 0.9
"""Share of the memory above which a plan that is within 10 % may not fit."""


def check_memory(context: Context, planned: "PlannedRun") -> Iterator[Check]:
    """Nothing about memory where the strategy's keys are wrong, which other checks report.

    Raises: ConfigError: `deepspeed: auto` finds no strategy.
    """
    if planned.args.deepspeed == AUTO:
        choice = choose_deepspeed(
            planned, nproc_per_node(context.config), visible_accelerators(context.config)
        )
        yield Check("OK", "strategy", choice.describe())
        changed = {"deepspeed": choice.chosen.deepspeed}
        planned = replace(planned, args=planned.args.model_copy(update=changed))
    with contextlib.suppress(ConfigError):
        yield _memory_of(context, planned)


def _memory_of(context: Context, planned: "PlannedRun") -> Check:
    from pipeline.trainer.memory.largest_batch import largest_batch
    from pipeline.trainer.memory.memory_plan import plan_run
    from pipeline.trainer.memory.smaller import advice, changes_that_fit

    accelerators = visible_accelerators(context.config)
    ranks = nproc_per_node(context.config)
    plan = plan_run(planned, ranks, on_accelerator=bool(accelerators))
    if plan is None:
        return Check("WARN", "memory", "no plan for this model", "the run says what it takes")
    if accelerators:
        room = min(accelerator.memory_bytes for accelerator in accelerators)
        where = "smallest accelerator"
    else:
        room = memory().available_bytes // ranks
        where = f"main memory for each of {ranks} ranks"
    text = (
        f"{plan.describe()} of {size_text(room)} ({where}); its largest micro-batch has "
        f"{plan.tokens:,} tokens"
    )
    if plan.total <= _TIGHT * room:
        return Check("OK", "memory", text)
    changes = changes_that_fit(
        planned.args,
        largest_batch(planned),
        plan,
        int(_TIGHT * room),
        on_accelerator=bool(accelerators),
    )
    status = "FAIL" if plan.without_batch > room else "WARN"
    return Check(status, "memory", text, advice(changes))
