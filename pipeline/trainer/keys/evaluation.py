"""What is measured beside the training loss."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.config.strict import OptionalText, StrictModel


class EvaluationKeys(StrictModel):
    """What is measured beside the training loss."""

    native_keys: ClassVar[frozenset[str]] = frozenset(
        {
            "eval_generation_samples",
            "eval_generation_max_new_tokens",
            "eval_generation_max_prompt_tokens",
        }
    )

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

    compute_accuracy: bool = False
    """Also measure how often the likeliest token is the right one (`eval_accuracy`, as in
    LLaMA-Factory the mean over examples), and the same of tool calls: `eval_call_accuracy` and
    `eval_argument_accuracy` of their tokens, `eval_call_exact_match` of whole calls."""
    early_stopping_steps: Annotated[int, Field(ge=1)] | None = None
    """End the training after so many evaluations in a row without a lower `eval_loss`. null: never
    before the last step."""

    eval_generation_samples: int = Field(default=0, ge=0)
    """Held out turns, the same at every evaluation, that the model writes itself, greedily:
    `eval_samples.jsonl` has them beside the true ones. 0: none."""
    eval_generation_max_new_tokens: int = Field(default=256, ge=1)
    """Tokens after which a sample ends although its turn has not."""
    eval_generation_max_prompt_tokens: int = Field(default=8192, ge=1)
    """Turns with more tokens before them are no samples: their keys and values have to fit beside
    the training."""

    @field_validator("eval_generation_samples")
    @classmethod
    def _can_be_generated(cls, count: int, info: ValidationInfo) -> int:
        if not count:
            return count
        if not info.data.get("val_size") and info.data.get("eval_dataset") is None:
            raise ValueError("there is nothing to take samples of; set val_size or eval_dataset")
        if info.data.get("stage") != "sft":
            raise ValueError("is about turns of conversations: stage sft; remove it")
        if info.data.get("sequence_parallel_size", 1) > 1:
            raise ValueError("needs sequences that one rank has whole: sequence_parallel_size 1")
        return count

    @field_validator("compute_accuracy")
    @classmethod
    def _whole_sequences(cls, compute_accuracy: bool, info: ValidationInfo) -> bool:
        if compute_accuracy and info.data.get("sequence_parallel_size", 1) > 1:
            raise ValueError("needs sequences that one rank has whole: sequence_parallel_size 1")
        return compute_accuracy

    @field_validator("early_stopping_steps")
    @classmethod
    def _during_training(cls, early_stopping_steps: int | None, info: ValidationInfo) -> int | None:
        if early_stopping_steps is not None and info.data.get("eval_strategy") == "no":
            raise ValueError("needs evaluations: set eval_strategy to steps or epoch")
        return early_stopping_steps

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
