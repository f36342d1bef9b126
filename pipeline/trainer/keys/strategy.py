"""How the ranks share the work."""

from pydantic import Field

from pipeline.config.strict import OptionalText, StrictModel


class StrategyKeys(StrictModel):
    """How the ranks share the work."""

    deepspeed: OptionalText = "training_config/deepspeed/ds_z3_config.json"
    """DeepSpeed JSON, relative to the project root. null: DistributedDataParallel instead."""
    use_cpu: bool = False
    """Train on CPU although an accelerator is visible."""
    ddp_timeout: int = Field(default=1800, ge=1)
    """Seconds that a rank waits for the others in a collective operation."""
