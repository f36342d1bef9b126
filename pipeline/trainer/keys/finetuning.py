"""What is trained, and by which objective."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.strict import OptionalText, StrictModel

Stage = Literal["sft", "pt", "dpo", "rm"]
PAIR_STAGES: tuple[Stage, ...] = ("dpo", "rm")
"""They train on a chosen and a rejected continuation of a conversation."""


class FinetuningKeys(StrictModel):
    """What is trained, and by which objective."""

    stage: Stage = "sft"
    """`sft`: the model's turns of conversations carry loss; `pt`: continued pre-training on texts,
    every token of which does; `dpo`: pairs of continuations, of which one is preferred
    (`pref_loss`); `rm`: a model that scores conversations, on the same pairs."""
    finetuning_type: Literal["full", "freeze", "lora"] = "full"
    """`full`: all weights; `freeze`: those of some layers; `lora`: low-rank adapters beside frozen
    weights."""
    freeze_trainable_layers: int = 2
    """finetuning_type freeze: how many of the last layers are trained; negative: of the first."""
    freeze_trainable_modules: Annotated[str, Field(min_length=1)] = "all"
    """finetuning_type freeze: modules of these layers that are trained, such as `mlp,self_attn`."""
    freeze_extra_modules: OptionalText = None
    """finetuning_type freeze: modules outside the layers that are trained too, such as `lm_head`.
    """
    moe_aux_loss_coef: Annotated[float, Field(ge=0)] | None = None
    """Mixtures of experts: how much a loss counts that spreads the tokens over the experts. It is
    computed for every document. null: not at all."""

    @property
    def trains_pairs(self) -> bool:
        return self.stage in PAIR_STAGES


def split_names(names: str | None) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]
