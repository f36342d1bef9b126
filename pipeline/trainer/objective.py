"""The model and its loss in one module: what every parallel strategy wraps and runs.

A strategy that partitions parameters gathers them when a module is called. With the loss inside,
that covers all that the loss does with the weights.
"""

from typing import Any, NamedTuple

import torch
from torch import nn

from pipeline.trainer.data.collate import MicroBatch
from pipeline.trainer.loss import token_losses


class Losses(NamedTuple):
    """What one micro-batch gives."""

    total: torch.Tensor
    """Scalar, fp32: the sum of weight x negative log likelihood; gradients flow from here."""
    tokens: torch.Tensor
    """(B, K), fp32, without gradient: negative log likelihoods, 0 where there is no label."""


class SupervisedObjective(nn.Module):
    """Any causal LM of transformers with its weighted next-token loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **fields: Any) -> Losses:
        """`fields`: those of a `MicroBatch`; wrappers look for tensors among them."""
        batch = MicroBatch(**fields)
        losses = token_losses(self._logits(batch), batch.labels)
        return Losses((losses * batch.weights).sum(), losses.detach())

    def _logits(self, batch: MicroBatch) -> torch.Tensor:
        """(B, K, V): only the labelled positions reach the lm_head."""
        return self.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            use_cache=False,
            logits_to_keep=batch.positions,
            **_documents(batch),
        ).logits


def _documents(batch: MicroBatch) -> dict[str, Any]:
    """Where the documents of a packed batch are, in the words of every attention implementation."""
    if batch.document_lengths is None:
        return {}
    longest = max(batch.document_lengths)
    return {
        "position_ids": batch.position_ids,
        "cu_seq_lens_q": batch.boundaries,
        "cu_seq_lens_k": batch.boundaries,
        "max_length_q": longest,
        "max_length_k": longest,
        "document_lengths": batch.document_lengths,
    }
