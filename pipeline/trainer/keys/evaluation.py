"""What is measured beside the training loss."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.config.strict import OptionalText, StrictModel


class EvaluationKeys(StrictModel):
    """What is measured beside the training loss."""

    val_size: float = Field(default=0.0, ge=0)
    """Rows held out of the training to measure the loss on: below 1 a share, from 1 on a number.
    They are evaluated after the last step, and when `eval_strategy` says so."""
    eval_dataset: OptionalText = None
    """Names in dataset_info.json, separated by commas, that are evaluated instead of held out rows
    and are not trained on."""
    eval_on_each_dataset: bool = False
    """Log the loss of every evaluated dataset, too, as `eval_<name>_loss`."""
    eval_strategy: Literal["no", "steps", "epoch"] = "no"
    """When they are evaluated during training: every `eval_steps`, or after each
    epoch."""
    eval_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps between two evaluations (eval_strategy steps). null: `logging_steps`."""
    per_device_eval_batch_size: int = Field(default=8, ge=1)
    """Sequences per rank and batch of an evaluation."""

    @field_validator("eval_dataset")
    @classmethod
    def _instead_of_held_out_rows(
        cls, eval_dataset: str | None, info: ValidationInfo
    ) -> str | None:
        if eval_dataset is not None and info.data.get("val_size"):
            raise ValueError("contradicts val_size: choose one of them")
        return eval_dataset

    @property
    def evaluates(self) -> bool:
        return self.val_size > 0 or self.eval_dataset is not None
