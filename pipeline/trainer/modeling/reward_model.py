"""The model of stage rm: what Transformers makes of a causal LM for classification into one class.

    decoder -> hidden states (B, S, H) -> score: Linear(H, 1), without bias -> at the last token

So what is trained is saved as an `AutoModelForSequenceClassification` with `num_labels` 1, which
TRL, vLLM and others take for a reward model. Of a causal LM's own weights only `lm_head` is gone.
"""

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from pipeline.errors import TrainError
from pipeline.trainer.keys.finetuning import Stage

SCORE = "score"
"""The module that makes the reward, by the name that Transformers gives it."""


def auto_class(stage: Stage) -> Any:
    return AutoModelForSequenceClassification if stage == "rm" else AutoModelForCausalLM


def check_scores(model: PreTrainedModel, name: str) -> None:
    """Raises: TrainError: the model has no such linear layer behind its last hidden states, or
    would not read the reward where it is trained."""
    score = getattr(model, SCORE, None)
    if not isinstance(score, nn.Linear):
        raise TrainError(
            f"{name}: stage rm: {type(model).__name__} has no linear layer `{SCORE}`; choose "
            "another model, or infrastructure.engine: llamafactory"
        )
    config = model.config.get_text_config()
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if config.pad_token_id is not None and config.pad_token_id in ends:
        raise TrainError(
            f"{name}: stage rm: token {config.pad_token_id} is both padding and the end of a turn, "
            "so that whoever uses the model would take the reward one token before it; give the "
            "model's config.json another pad_token_id"
        )


def clear_new_score(model: Any, missing: set[str]) -> None:
    """A reward model begins with rewards of 0, the same whatever the strategy; one that is trained
    further keeps its own.

    `missing`: names of the weights that were in no file.
    """
    weight = model.score.weight
    if f"{SCORE}.weight" not in missing:
        return
    if is_deepspeed_zero3_enabled():
        import deepspeed

        with deepspeed.zero.GatheredParameters([weight], modifier_rank=0):
            nn.init.zeros_(weight)
        return
    with torch.no_grad():
        weight.zero_()


def rewards_at(score: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """(K,) fp32 of the hidden states (1, K, H), computed in the precision of the weights."""
    weight = next(score.parameters())
    with torch.autocast(states.device.type, enabled=False):
        return score(states.to(weight.dtype))[0, :, 0].float()
