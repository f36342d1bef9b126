"""What is measured beside the training loss."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.config.strict import OptionalText, StrictModel
from pipeline.trainer.keys.finetuning import PAIR_STAGES


def check_multiple(save_steps: int | None, every: int | None, name: str) -> None:
    """Raises: ValueError: not every checkpoint is evaluated."""
    if save_steps and every and save_steps % every:
        raise ValueError(
            f"load_best_model_at_end needs evaluated checkpoints, but save_steps ({save_steps}) is "
            f"no multiple of {name} ({every}); make it one"
        )


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
    eval_generation_samples: int = Field(default=0, ge=0)
    """Held out turns, the same at every evaluation, that the model writes itself, greedily:
    `eval_samples.jsonl` has them beside the true ones. 0: none."""
    eval_generation_max_new_tokens: int = Field(default=256, ge=1)
    """Tokens after which a sample ends although its turn has not."""
    eval_generation_max_prompt_tokens: int = Field(default=8192, ge=1)
    """Turns with more tokens before them are no samples: their keys and values have to fit beside
    the training."""

    early_stopping_steps: Annotated[int, Field(ge=1)] | None = None
    """End the training after so many evaluations in a row without a better one. null: never
    before the last step."""
    load_best_model_at_end: bool = False
    """Make the final model of the checkpoint with the best evaluation, which `save_total_limit`
    then keeps beside the newest. Checkpoints are to be saved where the model is evaluated."""
    metric_for_best_model: OptionalText = None
    """What an evaluation measures that decides which is the best, here and for
    `early_stopping_steps`: `eval_accuracy` ... null: `eval_loss`."""
    greater_is_better: bool | None = None
    """Whether more of that metric is better. null: yes, unless its name ends with `loss`."""

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

    @field_validator("load_best_model_at_end")
    @classmethod
    def _checkpoints_are_evaluated(cls, load_best: bool, info: ValidationInfo) -> bool:
        keys = info.data
        strategies = keys.get("save_strategy"), keys.get("eval_strategy")
        if not load_best or None in strategies:
            return load_best
        if strategies[0] != strategies[1] or "no" in strategies:
            raise ValueError(
                f"needs evaluated checkpoints, but eval_strategy is {strategies[1]} and "
                f"save_strategy {strategies[0]}; set both to steps or both to epoch"
            )
        if strategies[0] == "steps":
            check_multiple(keys.get("save_steps"), keys.get("eval_steps"), "eval_steps")
        return load_best

    @field_validator("metric_for_best_model")
    @classmethod
    def _is_measured(cls, metric: str | None, info: ValidationInfo) -> str | None:
        more = ("compute_accuracy", "eval_on_each_dataset", "eval_generation_samples")
        is_more = info.data.get("stage") in PAIR_STAGES or any(info.data.get(key) for key in more)
        if metric not in (None, "loss", "eval_loss") and not is_more:
            raise ValueError(f"only eval_loss is measured; for more set {' or '.join(more)}")
        return metric

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
