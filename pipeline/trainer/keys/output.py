"""Where the run is saved, and when."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.config.strict import OptionalText, StrictModel


class OutputKeys(StrictModel):
    """Where the run is saved, and when."""

    native_keys: ClassVar = frozenset({"async_save"})

    output_dir: str = Field(min_length=1)
    """Where the run is saved: relative to artifacts/model/, or absolute."""
    overwrite_output_dir: bool = False
    """Replace what an earlier, different run left in `output_dir` instead of refusing it."""
    resume_from_checkpoint: OptionalText = None
    """`latest` (the newest complete checkpoint in `output_dir`) or a checkpoint's path. null:
    start from the model's weights."""
    save_strategy: Literal["steps", "epoch", "no"] = "steps"
    """When checkpoints are written: every `save_steps`, after each epoch, or never."""
    save_steps: int = Field(default=200, ge=1)
    """Optimizer steps between two checkpoints (save_strategy steps)."""
    save_total_limit: Annotated[int, Field(ge=1)] | None = None
    """Newest checkpoints that are kept. null: all."""
    save_only_model: bool = False
    """Leave the optimizer out of checkpoints: smaller, but they cannot be resumed."""
    async_save: bool = True
    """Write checkpoints in a process beside every rank: training waits for a copy to memory only.
    false: it waits until the checkpoint is on the disk."""
