"""Where the run is saved, and when."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from pipeline.config.strict import OptionalText, StrictModel
from pipeline.trainer.output_dir import LATEST


def _true_is_latest(value: Any) -> Any:
    return {True: LATEST, False: None}[value] if isinstance(value, bool) else value


_Resume = Annotated[
    OptionalText, BeforeValidator(_true_is_latest, json_schema_input_type=str | bool | None)
]


class OutputKeys(StrictModel):
    """Where the run is saved, and when."""

    native_keys: ClassVar = frozenset({"async_save"})

    output_dir: str = Field(min_length=1)
    """Where the run is saved: relative to artifacts/model/, or absolute."""
    overwrite_output_dir: bool = False
    """Replace what an earlier, different run left in `output_dir` instead of refusing it."""
    resume_from_checkpoint: _Resume = None
    """`latest` or true (the newest complete checkpoint in `output_dir`), or a checkpoint's path.
    null or false: start from the model's weights."""
    save_strategy: Literal["steps", "epoch", "no"] = "steps"
    """When checkpoints are written: every `save_steps`, after each epoch, or never."""
    save_steps: int = Field(default=200, ge=1)
    """Optimizer steps between two checkpoints (save_strategy steps)."""
    save_total_limit: Annotated[int, Field(ge=1)] | None = None
    """Newest checkpoints that are kept, and with `load_best_model_at_end` the best. null: all."""
    save_only_model: bool = False
    """Leave the optimizer out of checkpoints: smaller, but they cannot be resumed."""
    async_save: bool = True
    """Write checkpoints in a process beside every rank: training waits for a copy to memory only.
    false: it waits until the checkpoint is on the disk."""
