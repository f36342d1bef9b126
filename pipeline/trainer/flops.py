"""How the compute of a document grows with its length, from the model's shape alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

_NEVER = 10**9
"""Crossover of a model without attention that grows with the document."""


@dataclass(frozen=True)
class ModelFlops:
    """What a token costs in the forward pass, in parts that grow differently.

    Per token of a document of S tokens: 2 x matmul parameters, and for every layer with full
    attention 2 x heads x head size x S (two products, half of each masked). Layers with a window of
    W tokens count as linear, 4 x heads x head size x W. The lm_head, 2 x its weights, runs for
    trained tokens only.
    """

    matmul_parameters: int
    """Those that every token meets, and what the windows of layers come to."""
    attention_width: int
    """Layers with full attention x heads x head size."""
    head_parameters: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> "ModelFlops":
        """`model` may be without weights (`load_skeleton`)."""
        text = model.config.get_text_config()
        width = _attention_width(text)
        window = getattr(text, "sliding_window", None) or 0
        everywhere = "sliding_attention" if window else "full_attention"
        kinds = getattr(text, "layer_types", None) or [everywhere] * text.num_hidden_layers
        windows = 2 * kinds.count("sliding_attention") * width * window
        head = getattr(model.get_output_embeddings(), "weight", None)
        return cls(
            matmul_parameters=_matmul_parameters(model) + windows,
            attention_width=kinds.count("full_attention") * width,
            head_parameters=0 if head is None else head.numel(),
        )

    @property
    def crossover_tokens(self) -> int:
        """The document length at which attention costs as much as all matrix multiplications."""
        if not self.attention_width:
            return _NEVER
        return max(1, round(self.matmul_parameters / self.attention_width))

    def useful(
        self, tokens: np.ndarray, attention: np.ndarray, trained_tokens: np.ndarray
    ) -> np.ndarray:
        """Floating-point operations that training needs: forward, and backward twice as many.

        All (documents,). Neither padding counts nor what is computed again. `attention`: the
        squares of the lengths (`Documents.attention`).
        """
        forward = self.matmul_parameters * tokens + self.attention_width * attention
        return 3 * 2.0 * (forward + self.head_parameters * trained_tokens)


def _attention_width(text: Any) -> int:
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return text.num_attention_heads * head_size


def _matmul_parameters(model: PreTrainedModel) -> int:
    """Weights that a token meets: no embedding, no lm_head, of the experts only those in use."""
    outside = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    outside.add(id(getattr(model.get_output_embeddings(), "weight", None)))
    experts_in_use = getattr(model.config.get_text_config(), "num_experts_per_tok", None)
    total = 0.0
    for parameter in model.parameters():
        if id(parameter) in outside or parameter.dim() < 2:
            continue
        # The weights of all experts of a layer are one tensor (experts, in, out).
        if experts_in_use and parameter.dim() == 3:
            total += parameter.numel() * experts_in_use / parameter.shape[0]
        else:
            total += parameter.numel()
    return round(total)
