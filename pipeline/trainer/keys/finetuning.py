"""What is trained, and by which objective."""

from typing import Literal

from pipeline.config.strict import StrictModel


class FinetuningKeys(StrictModel):
    """What is trained, and by which objective."""

    stage: Literal["sft"] = "sft"
    """Supervised fine-tuning, the only stage of the native engine."""
    finetuning_type: Literal["full"] = "full"
    """All weights are trained."""
