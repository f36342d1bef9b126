"""`deepspeed: auto`: the first strategy, from the cheapest on, whose memory plan fits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.errors import ConfigError, PipelineError
from pipeline.trainer.adapters.lora import check_partitioned
from pipeline.trainer.adapters.quantization import check_quantization
from pipeline.trainer.memory.division import Zero
from pipeline.trainer.memory.memory_plan import KnownSteps, plan_run
from pipeline.trainer.memory.units import size_text
from pipeline.trainer.planned_run import PlannedRun


@dataclass(frozen=True)
class Tried:
    """One strategy and what it would need."""

    name: str
    deepspeed: str | None
    """The value of the key."""
    needed: int
    """Bytes of a rank."""


@dataclass(frozen=True)
class StrategyChoice:
    """Which strategies were tried, and the one that was chosen."""

    tried: tuple[Tried, ...]
    obstacles: Mapping[str, str]
    """Why others cannot run this training."""
    room: int
    """Bytes that a rank may need."""

    @property
    def chosen(self) -> Tried:
        """The one tried last, if it fits; else that which needs least."""
        last = self.tried[-1]
        return last if last.needed <= self.room else min(self.tried, key=lambda one: one.needed)

    @property
    def fits(self) -> bool:
        return self.chosen.needed <= self.room

    def describe(self) -> str:
        """`DDP needs 3.00 GiB, ZeRO-2 1.20 GiB: ZeRO-2 is the first to fit into 2.00 GiB`."""
        needs = ", ".join(f"{one.name} needs {size_text(one.needed)}" for one in self.tried)
        others = "".join(f", {name} is refused ({why})" for name, why in self.obstacles.items())
        room = size_text(self.room)
        verdict = f"is the first to fit into {room}" if self.fits else f"needs least, of {room}"
        return f"{needs}{others}: {self.chosen.name} {verdict}"


def choose_strategy(
    run: PlannedRun,
    strategies: Mapping[str, str | None],
    num_ranks: int,
    room: int,
    *,
    on_accelerator: bool,
) -> StrategyChoice:
    """`strategies`: name and value of `deepspeed`, the cheapest first.

    Raises: ConfigError: none of them can run this training, or the model cannot be planned.
    """
    tried: list[Tried] = []
    obstacles: dict[str, str] = {}
    known: KnownSteps = {}
    for name, deepspeed in strategies.items():
        changed = replace(run, args=run.args.model_copy(update={"deepspeed": deepspeed}))
        try:
            _check_together(changed, num_ranks)
            plan = plan_run(changed, num_ranks, on_accelerator=on_accelerator, known=known)
        except PipelineError as error:
            obstacles[name] = str(error)
            continue
        if plan is None:
            raise ConfigError(
                "training.deepspeed: auto: there is no memory plan for this model to choose by; "
                "name a DeepSpeed file, or write null for DDP"
            )
        tried.append(Tried(name, deepspeed, plan.total))
        if plan.total <= room:
            break
    if not tried:
        reasons = "; ".join(obstacles.values())
        raise ConfigError(f"training.deepspeed: auto: no strategy can run this: {reasons}")
    return StrategyChoice(tuple(tried), obstacles, room)


def _check_together(run: PlannedRun, num_ranks: int) -> None:
    """Raises: PipelineError: the strategy cannot run what the other keys ask for."""
    args = run.args
    zero = Zero.of(args, num_ranks)
    check_quantization(args, args.deepspeed)
    if zero is not None and zero.stage == 3 and args.finetuning_type == "lora":
        check_partitioned(args)
