"""What is measured beside the training loss."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.strict import StrictModel


class EvaluationKeys(StrictModel):
    """What is measured beside the training loss."""

    val_size: float = Field(default=0.0, ge=0)
    """Rows held out of the training to measure the loss on: below 1 a share, from 1 on a number.
    They are evaluated after the last step, and when `eval_strategy` says so."""
    eval_strategy: Literal["no", "steps", "epoch"] = "no"
    """When the held out rows are evaluated during training: every `eval_steps`, or after each
    epoch."""
    eval_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps between two evaluations (eval_strategy steps). null: `logging_steps`."""
    per_device_eval_batch_size: int = Field(default=8, ge=1)
    """Sequences per rank and batch of an evaluation."""
