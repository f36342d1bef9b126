"""What `deepspeed: auto` chooses from on this machine."""

from typing import TYPE_CHECKING

from pipeline.launch.machine import Accelerator, compiler, memory
from pipeline.paths import SHIPPED

if TYPE_CHECKING:
    from pipeline.trainer.memory.strategy_choice import StrategyChoice
    from pipeline.trainer.planned_run import PlannedRun

_USABLE = 0.9
"""Of the memory of a device; the plan is within 10 %."""


def choose_deepspeed(
    run: "PlannedRun", num_ranks: int, accelerators: list[Accelerator]
) -> "StrategyChoice":
    """From the whole memory of the devices, not from what is free now: a run that is continued
    gets the strategy that it had.

    Raises: ConfigError: none can run this training.
    """
    from pipeline.trainer.memory.strategy_choice import choose_strategy

    if accelerators:
        room = min(accelerator.memory_bytes for accelerator in accelerators)
    else:
        room = memory().total_bytes // num_ranks
    return choose_strategy(
        run,
        _strategies(num_ranks, offloads=bool(accelerators) and compiler() is not None),
        num_ranks,
        int(_USABLE * room),
        on_accelerator=bool(accelerators),
    )


def _strategies(num_ranks: int, *, offloads: bool) -> dict[str, str | None]:
    """The cheapest first: what ranks exchange grows, then what goes to the host and back."""
    found: dict[str, str | None] = {"DDP": None}
    if num_ranks > 1:
        found |= {"ZeRO-2": _shipped("z2"), "ZeRO-3": _shipped("z3")}
    if offloads:
        found["ZeRO-2 with offload"] = _shipped("z2_offload")
        found["ZeRO-3 with offload"] = _shipped("z3_offload")
    return found


def _shipped(name: str) -> str:
    return str(SHIPPED / "deepspeed" / f"ds_{name}_config.json")
