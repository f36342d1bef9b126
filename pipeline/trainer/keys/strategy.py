"""How the ranks share the work."""

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.config.strict import OptionalText, StrictModel


class StrategyKeys(StrictModel):
    """How the ranks share the work."""

    native_keys: ClassVar[frozenset[str]] = frozenset(
        {"sequence_parallel_size", "sequence_parallel_mode"}
    )

    deepspeed: OptionalText = "training_config/deepspeed/ds_z3_config.json"
    """DeepSpeed JSON, relative to the project root. null: DistributedDataParallel instead."""
    use_cpu: bool = False
    """Train on CPU although an accelerator is visible."""
    ddp_timeout: int = Field(default=1800, ge=1)
    """Seconds that a rank waits for the others in a collective operation."""
    sequence_parallel_size: int = Field(default=1, ge=1)
    """Ranks that share every micro-batch, each with a part of its tokens (context parallelism), for
    documents that one rank has no memory for. It divides the number of ranks; the examples of a
    micro-batch are then one sequence, as with `packing`."""
    sequence_parallel_mode: Literal["auto", "ulysses", "zigzag-ring"] = "auto"
    """How they share attention. `ulysses`: each has some heads, of which it divides the number;
    `zigzag-ring`: keys and values go round; `auto`: ulysses where it can."""
