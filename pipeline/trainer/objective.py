"""The model and its loss in one module: what every parallel strategy wraps and runs.

A strategy that partitions parameters gathers them when a module is called. With the loss inside,
that covers all that the loss does with the weights.
"""

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import logsigmoid
from torch.utils.checkpoint import checkpoint

from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.collate import MicroBatch
from pipeline.trainer.keys.preference import PreferenceKeys
from pipeline.trainer.loss import token_losses
from pipeline.trainer.modeling.attention import Documents, branch_masks
from pipeline.trainer.modeling.experts import Routers, expert_load
from pipeline.trainer.modeling.flex_attention import BLOCK_MASK, block_masks
from pipeline.trainer.modeling.linear_loss import CHUNK_ELEMENTS
from pipeline.trainer.modeling.lm_head import LossHead, install_loss_head
from pipeline.trainer.modeling.reward_model import SCORE, rewards_at
from pipeline.trainer.preference import CHOSEN, REJECTED, implicit_rewards, pair_losses


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
    pairs: torch.Tensor | None = None
    """(pairs, 2), fp32, without gradient: log likelihoods of both sides of every pair."""
    rewards: torch.Tensor | None = None
    """(pairs, 2), fp32, without gradient: what each side is rewarded with."""


class _Objective(nn.Module):
    """Any decoder of transformers, asked for its states at the labels of a micro-batch."""

    def __init__(self, model: nn.Module, moe_aux_loss_coef: float | None = None) -> None:
        super().__init__()
        self.model = model
        self._routers = Routers(model, moe_aux_loss_coef)

    def _states(self, batch: MicroBatch) -> torch.Tensor:
        """(B, K, H): the last hidden states at the labelled positions."""
        decoder = _own_model(self.model).base_model
        return decoder(**self._inputs(batch)).last_hidden_state[:, batch.positions]

    def _inputs(self, batch: MicroBatch) -> dict[str, Any]:
        if batch.cache is not None:
            return {
                "input_ids": batch.input_ids,
                "past_key_values": batch.cache,
                "use_cache": True,
                **_documents(batch),
            }
        mask: Any = batch.attention_mask
        config = _own_model(self.model).config
        if config.get_text_config()._attn_implementation == BLOCK_MASK:
            mask = block_masks(config, batch)
        elif batch.preorder is not None and batch.position_ids is not None:
            mask = branch_masks(config, batch.preorder, batch.position_ids)
        return {
            "input_ids": batch.input_ids,
            "attention_mask": mask,
            "use_cache": False,
            **_documents(batch),
        }


class _LanguageObjective(_Objective):
    """Any causal LM, asked for what predicts the labels."""

    def __init__(self, model: nn.Module, moe_aux_loss_coef: float | None = None) -> None:
        super().__init__(model, moe_aux_loss_coef)
        install_loss_head(_own_model(model))

    @property
    def _head(self) -> nn.Module:
        """Asked for every time: a strategy may put another module in its place."""
        return _own_model(self.model).get_output_embeddings()

    def _logits(self, batch: MicroBatch) -> torch.Tensor:
        """(B, K, V): only the labelled positions reach the lm_head."""
        return self.model(**self._inputs(batch), logits_to_keep=batch.positions).logits


class SupervisedObjective(_LanguageObjective):
    """The weighted next-token loss.

    In training, a mixture of experts adds its balance loss (`moe_aux_loss_coef`).
    """

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
        head = self._head
        if isinstance(head, LossHead):
            return head(self._states(batch), batch.labels, batch.weights)
        logits = self._logits(batch)
        losses = token_losses(logits, batch.labels)
        predictions = None if torch.is_grad_enabled() else logits.argmax(dim=-1)
        return (losses * batch.weights).sum(), losses.detach(), predictions


class PreferenceObjective(_LanguageObjective):
    """The loss of pairs of continuations, which the signs of a label's weight tell apart."""

    def __init__(self, model: nn.Module, keys: PreferenceKeys) -> None:
        super().__init__(model)
        self._keys = keys

    def forward(self, **fields: Any) -> Losses:
        """`fields`: those of a `MicroBatch` of pairs."""
        batch = MicroBatch(**fields)
        assert batch.pairs is not None
        assert batch.references is not None
        with self._routers.watched() as seen:
            losses = self._token_losses(batch)
        load = expert_load(seen, batch)
        if not len(batch.references):
            none = batch.references
            return Losses(losses.sum(), losses.detach(), load, pairs=none, rewards=none)
        belongs = _sides(batch)
        with torch.autocast(losses.device.type, enabled=False):
            sums = (-belongs @ losses[0]).view(-1, 2)
        means = sums / belongs.sum(dim=1).view(-1, 2)
        likelihoods = means if self._keys.averages_tokens else sums
        total = pair_losses(likelihoods, means[:, CHOSEN], batch.references, self._keys).sum()
        found = likelihoods.detach()
        rewards = implicit_rewards(found, batch.references, self._keys)
        return Losses(total, losses.detach(), load, pairs=found, rewards=rewards)

    def _token_losses(self, batch: MicroBatch) -> torch.Tensor:
        """(B, K), from which gradients flow; a linear lm_head makes few logits at a time."""
        head = self._head
        if not isinstance(head, LossHead):
            return token_losses(self._logits(batch), batch.labels)
        states = self._states(batch)
        size = max(1, CHUNK_ELEMENTS // head.out_features)
        chunks = zip(states.split(size, dim=1), batch.labels.split(size, dim=1), strict=True)
        losses = [
            checkpoint(_head_losses, head, part, labels, use_reentrant=False)
            for part, labels in chunks
        ]
        return torch.cat(losses, dim=1)


class RewardObjective(_Objective):
    """The loss of rewards (Bradley and Terry): how likely the chosen side is preferred by them."""

    def forward(self, **fields: Any) -> Losses:
        """`fields`: those of a `MicroBatch` of pairs, read at the last token of each side."""
        batch = MicroBatch(**fields)
        assert batch.pairs is not None
        assert batch.references is not None
        with self._routers.watched() as seen:
            rewards = rewards_at(getattr(self.model, SCORE), self._states(batch))
        load = expert_load(seen, batch)
        none = torch.zeros_like(batch.weights)
        if not len(batch.references):
            return Losses(0 * rewards.sum(), none, load, rewards=batch.references)
        of_pairs = (_sides(batch) @ rewards).view(-1, 2)
        margins = of_pairs[:, CHOSEN] - of_pairs[:, REJECTED]
        return Losses(-logsigmoid(margins).sum(), none, load, rewards=of_pairs.detach())


def make_objective(model: nn.Module, args: TrainArgs) -> nn.Module:
    """The objective of the run's `stage`."""
    if args.stage == "rm":
        return RewardObjective(model)
    if args.stage == "dpo":
        return PreferenceObjective(model, args)
    return SupervisedObjective(model, args.moe_aux_loss_coef)


def _head_losses(head: LossHead, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return token_losses(head(states), labels)


def _sides(batch: MicroBatch) -> torch.Tensor:
    """(2 x pairs, K): the weight of each label in the side that it belongs to, 0 in others.

    For products: sums by index are added up in any order on a GPU.
    """
    assert batch.pairs is not None
    assert batch.references is not None
    weights = batch.weights[0]
    sides = torch.arange(2 * len(batch.references), device=weights.device)
    return (2 * batch.pairs + (weights < 0) == sides[:, None]) * weights.abs()


def _own_model(model: Any) -> Any:
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
        "documents": Documents(batch.segments),
    }
