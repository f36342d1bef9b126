"""Model and tokenizer files for `from_pretrained`, made from saved state, without the live model.

The state in a checkpoint is all that is needed, so no rank gathers the weights of the others, and
another process can do it while training goes on.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.trainer.adapters.lora import has_adapter, inject_empty_adapter, peft_config
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.checkpoint.state_files import SavedState
from pipeline.trainer.data.tokenize import TokenizerSource
from pipeline.trainer.modeling.load import load_skeleton, save_model


@dataclass(frozen=True)
class ModelFiles:
    """What is needed beside the weights; can be sent to another process."""

    args: TrainArgs
    generation_config: Any
    weight_conversions: Any
    """How transformers maps the names and shapes of the files to those of its modules."""
    adapter: Any
    """peft's config of the adapter in the model, or None."""

    @classmethod
    def of(cls, args: TrainArgs, model: PreTrainedModel) -> "ModelFiles":
        conversions = getattr(model, "_weight_conversions", None)
        adapter = peft_config(model) if has_adapter(model) else None
        return cls(args, getattr(model, "generation_config", None), conversions, adapter)

    def write(self, directory: Path) -> None:
        """Beside the state files that lie in `directory`."""
        TokenizerSource.of(self.args).load().save_pretrained(directory)
        skeleton = load_skeleton(self.args)
        if self.adapter is not None:
            with torch.device("meta"):
                inject_empty_adapter(skeleton, self.adapter)
        if self.generation_config is not None:  # a reward model has none
            skeleton.generation_config = self.generation_config
        skeleton._weight_conversions = self.weight_conversions
        with SavedState(directory) as saved:
            weights = dict(saved.weights())
        for names in _tied_names(skeleton):
            [shared] = [weights[name] for name in names if name in weights] or [None]
            if shared is not None:
                weights.update(dict.fromkeys(names, shared))
        save_model(skeleton, weights, directory, bf16=self.args.bf16)


def _tied_names(model: PreTrainedModel) -> list[list[str]]:
    """Names of parameters that are one tensor; saved state knows it by one of them."""
    names: defaultdict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return [same for same in names.values() if len(same) > 1]
