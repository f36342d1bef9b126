"""How conversations become tokens: every choice that decides ids and loss, in one record.

Part of a token store's fingerprint, sent to worker processes as it is.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.errors import ConfigError
from pipeline.trainer.keys.finetuning import PAIR_STAGES, Stage

if TYPE_CHECKING:
    from pipeline.trainer.args import TrainingKeys

ReasoningHistory = Literal["as_template", "keep", "last_turn"]


@dataclass(frozen=True)
class ClassWeights:
    """Factors on the loss weight of a turn's tokens, by what they say."""

    reasoning: float = 1.0
    call: float = 1.0
    text: float = 1.0

    @property
    def are_equal(self) -> bool:
        return self.reasoning == self.call == self.text == 1.0


@dataclass(frozen=True)
class Rendering:
    """The keys of the `training` section that decide ids and loss (see `TrainingKeys`)."""

    template: str = "auto"
    reasoning_history: ReasoningHistory = "as_template"
    class_weights: ClassWeights = ClassWeights()
    train_on_prompt: bool = False
    mask_history: bool = False
    enable_thinking: bool = True
    preserve_thinking: bool = False
    template_date: str = "26 Jul 2024"
    splits_at_compaction: bool = False
    stage: Stage = "sft"

    @property
    def holds_pairs(self) -> bool:
        return self.stage in PAIR_STAGES

    @classmethod
    def of(cls, keys: "TrainingKeys") -> "Rendering":
        """Raises: ConfigError: a key that this template does not have is set."""
        weights = keys.loss_weights
        rendering = cls(
            template=keys.template,
            reasoning_history=keys.reasoning_history,
            class_weights=ClassWeights(weights.reasoning, weights.call, weights.text),
            train_on_prompt=keys.train_on_prompt,
            mask_history=keys.mask_history,
            enable_thinking=keys.enable_thinking,
            preserve_thinking=keys.preserve_thinking,
            template_date=keys.template_date,
            splits_at_compaction=keys.cutoff_policy == "split_at_compaction",
            stage=keys.stage,
        )
        rendering._check()
        return rendering

    def _check(self) -> None:
        if self.stage == "pt":
            self._check_text()
            return
        is_auto = self.template == "auto"
        others = _ONLY_NAMED if is_auto else _ONLY_AUTO
        default = Rendering()
        wrong = [
            key for field, key in others.items() if getattr(self, field) != getattr(default, field)
        ]
        if wrong:
            needed = "a named template" if is_auto else "template: auto"
            raise ConfigError(
                f"training.{wrong[0]}: needs {needed} (template is {self.template}); remove it, or "
                "change training.template"
            )

    def _check_text(self) -> None:
        default = Rendering()
        for field, key in {"template": "template", **_ONLY_AUTO, **_ONLY_NAMED}.items():
            if getattr(self, field) != getattr(default, field):
                raise ConfigError(
                    f"training.{key}: is for conversations, stage pt trains on texts; remove it"
                )


# Field -> its key in the training section.
_ONLY_AUTO = {"reasoning_history": "reasoning_history", "class_weights": "loss_weights"}
_ONLY_NAMED = {
    key: key for key in ("train_on_prompt", "mask_history", "enable_thinking", "preserve_thinking")
}
