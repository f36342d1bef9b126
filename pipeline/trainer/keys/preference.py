"""How pairs of a chosen and a rejected continuation are trained (stage dpo)."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.config.strict import OptionalText, StrictModel

WITHOUT_REFERENCE = ("orpo", "simpo")
"""Values of `pref_loss`."""


class PreferenceKeys(StrictModel):
    """How pairs of a chosen and a rejected continuation are trained (stage dpo)."""

    pref_loss: Literal["sigmoid", "hinge", "ipo", "orpo", "simpo"] = "sigmoid"
    """Loss of a pair. `sigmoid` (DPO), `hinge` and `ipo` compare with the model as it was before
    training; `orpo` and `simpo` need no reference."""
    ref_model: OptionalText = None
    """Directory or Hub id of the model to compare with, of the same tokenizer. null: the one that
    the run starts from."""
    pref_beta: float = Field(default=0.1, gt=0)
    """How strongly the model is kept at the reference; orpo: weight of the odds ratio."""
    pref_ftx: float = Field(default=0.0, ge=0)
    """Weight of the chosen continuation's mean negative log likelihood, added to the loss."""
    dpo_label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """pref_loss sigmoid: the share of pairs that are assumed to be the wrong way round."""
    simpo_gamma: float = Field(default=0.5, ge=0)
    """pref_loss simpo: the margin by which the chosen continuation is to win."""

    @field_validator("dpo_label_smoothing")
    @classmethod
    def _only_of_sigmoid(cls, smoothing: float, info: ValidationInfo) -> float:
        if smoothing and info.data.get("pref_loss") != "sigmoid":
            raise ValueError("needs pref_loss: sigmoid")
        return smoothing

    @field_validator("ref_model")
    @classmethod
    def _is_compared_with(cls, ref_model: str | None, info: ValidationInfo) -> str | None:
        pref_loss = info.data.get("pref_loss")
        if ref_model is not None and pref_loss in WITHOUT_REFERENCE:
            raise ValueError(f"pref_loss {pref_loss} compares with no model; remove it")
        return ref_model

    @property
    def has_reference(self) -> bool:
        """The loss compares with the model as it was before training."""
        return self.pref_loss not in WITHOUT_REFERENCE

    @property
    def averages_tokens(self) -> bool:
        """The loss is about mean log likelihoods, not about sums."""
        return self.pref_loss in ("ipo", "orpo", "simpo")
