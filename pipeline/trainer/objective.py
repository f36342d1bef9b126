"""The model and its loss in one module: what every parallel strategy wraps and runs.

A strategy that partitions parameters gathers them when a module is called. With the loss inside,
that covers all that the loss does with the weights.
"""

from typing import Any, NamedTuple

import torch
from torch import nn

from pipeline.trainer.attention import branch_masks
from pipeline.trainer.data.collate import MicroBatch
from pipeline.trainer.experts import Routers, expert_load
from pipeline.trainer.lm_head import LossHead, install_loss_head
from pipeline.trainer.loss import token_losses


class Losses(NamedTuple):
    """What one micro-batch gives."""

    total: torch.Tensor
    """Scalar, fp32: the sum of weight x negative log likelihood; gradients flow from here."""
    tokens: torch.Tensor
    """(B, K), fp32, without gradient: negative log likelihoods, 0 where there is no label."""
    expert_load: torch.Tensor | None = None
    """(layers, experts): how many tokens chose each expert; None for a dense model."""
    predictions: torch.Tensor | None = None
    """(B, K): the likeliest tokens; None where gradients are made."""


class SupervisedObjective(nn.Module):
    """Any causal LM of transformers with its weighted next-token loss.

    In training, a mixture of experts adds its balance loss (`moe_aux_loss_coef`).
    """

    def __init__(self, model: nn.Module, moe_aux_loss_coef: float | None = None) -> None:
        super().__init__()
        self.model = model
        install_loss_head(_causal_lm(model))
        self._routers = Routers(model, moe_aux_loss_coef)

    def forward(self, **fields: Any) -> Losses:
        """`fields`: those of a `MicroBatch`; wrappers look for tensors among them."""
        batch = MicroBatch(**fields)
        with self._routers.watched() as seen:
            total, losses, predictions = self._token_losses(batch)
        balance = self._routers.balance_loss(seen, batch) if self.training else None
        if balance is not None:
            total = total + balance
        return Losses(total, losses, expert_load(seen, batch), predictions)

    def _token_losses(
        self, batch: MicroBatch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Returns: the weighted sum, and (B, K) each: the losses and what `Losses` predicts."""
        # Asked every time: a strategy may put another module in its place.
        head = _causal_lm(self.model).get_output_embeddings()
        if isinstance(head, LossHead):
            return head(self._states(batch), batch.labels, batch.weights)
        logits = self._logits(batch)
        losses = token_losses(logits, batch.labels)
        predictions = None if torch.is_grad_enabled() else logits.argmax(dim=-1)
        return (losses * batch.weights).sum(), losses.detach(), predictions

    def _states(self, batch: MicroBatch) -> torch.Tensor:
        """(B, K, H): the last hidden states at the labelled positions."""
        decoder = _causal_lm(self.model).base_model
        return decoder(**self._inputs(batch)).last_hidden_state[:, batch.positions]

    def _logits(self, batch: MicroBatch) -> torch.Tensor:
        """(B, K, V): only the labelled positions reach the lm_head."""
        return self.model(**self._inputs(batch), logits_to_keep=batch.positions).logits

    def _inputs(self, batch: MicroBatch) -> dict[str, Any]:
        mask: Any = batch.attention_mask
        if batch.preorder is not None and batch.position_ids is not None:
            config = _causal_lm(self.model).config
            mask = branch_masks(config, batch.preorder, batch.position_ids)
        return {
            "input_ids": batch.input_ids,
            "attention_mask": mask,
            "use_cache": False,
            **_documents(batch),
        }


def _causal_lm(model: Any) -> Any:
    """The model of transformers, without the adapters' wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _documents(batch: MicroBatch) -> dict[str, Any]:
    """Where the documents of a sequence are, in the words of every attention implementation."""
    if batch.segments is None:
        return {}
    return {
        "position_ids": batch.position_ids,
        "cu_seq_lens_q": batch.boundaries,
        "cu_seq_lens_k": batch.boundaries,
        "max_length_q": batch.longest_document,
        "max_length_k": batch.longest_document,
        "segments": batch.segments,
    }
