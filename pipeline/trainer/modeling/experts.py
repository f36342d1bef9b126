"""Mixtures of experts: where the routers send the tokens, and the loss that balances it.

The balance loss is that of Switch Transformers (arXiv 2101.03961, eq. 4) for every document alone,

    experts x sum over experts of (tokens that choose it / tokens) x (mean probability of it),

its mean over the layers and, by loss weight, over the documents of the global batch. So it is a sum
over documents divided by the same weight as the other loss, and depends neither on the number of
ranks nor on micro-batches or packing. Transformers' and LLaMA-Factory's is computed once for each
micro-batch, over all its documents and layers together, and does depend on them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from pipeline.errors import TrainError
from pipeline.trainer.data.collate import MicroBatch


class Routed(NamedTuple):
    """What one router did with T tokens."""

    logits: torch.Tensor  # (T, experts)
    chosen: torch.Tensor  # (T, experts per token), int64


class Routers:
    """The routers of a model; none in a dense one."""

    def __init__(self, model: nn.Module, balance: float | None) -> None:
        """`balance`: moe_aux_loss_coef.

        Raises: TrainError: there are no routers to balance.
        """
        found = router_modules(model)
        if balance and not found:
            raise TrainError(
                "training.moe_aux_loss_coef: this model has no routers that can be balanced; "
                "remove it"
            )
        self._balance = balance or 0.0
        self._seen: list[Routed] | None = None
        # Compiled, it would be tied to how long the list is.
        see: Any = torch.compiler.disable(self._see)
        for router in found:
            router.register_forward_hook(see)

    @contextmanager
    def watched(self) -> Iterator[list[Routed]]:
        """The list fills in a forward pass; what the backward pass recomputes is not added."""
        self._seen = seen = []
        try:
            yield seen
        finally:
            self._seen = None

    def _see(self, router: nn.Module, inputs: Any, output: Any) -> None:
        if self._seen is not None and _is_routing(output):
            self._seen.append(Routed(output[0], output[-1]))

    def balance_loss(self, seen: list[Routed], batch: MicroBatch) -> torch.Tensor | None:
        """moe_aux_loss_coef x sum over documents of loss weight x balance loss, fp32."""
        if not self._balance or not seen:
            return None
        with torch.autocast(batch.input_ids.device.type, enabled=False):
            members, weights = _members(batch), _document_weights(batch)
            layers = [_balance(routed, members) for routed in seen]
            return self._balance * (torch.stack(layers).mean(dim=0) * weights).sum()


def expert_load(seen: list[Routed], batch: MicroBatch) -> torch.Tensor | None:
    """(layers, experts): how many tokens chose each; padding is not counted."""
    if not seen:
        return None
    real = _real_tokens(batch)[None]
    with torch.no_grad(), torch.autocast(batch.input_ids.device.type, enabled=False):
        return torch.cat([real @ _choices(routed) for routed in seen])


def _balance(routed: Routed, members: torch.Tensor) -> torch.Tensor:
    """(documents,): 1 x experts per token if all experts are used alike, more otherwise."""
    tokens = members.sum(dim=1, keepdim=True).clamp(min=1)
    shares = members @ _choices(routed) / tokens
    probabilities = members @ routed.logits.float().softmax(dim=-1) / tokens
    return shares.shape[1] * (shares * probabilities).sum(dim=1)


def _choices(routed: Routed) -> torch.Tensor:
    """(T, experts): 1 where a token goes."""
    zeros = torch.zeros_like(routed.logits, dtype=torch.float32)
    return zeros.scatter(1, routed.chosen, 1.0)


def _members(batch: MicroBatch) -> torch.Tensor:
    """(documents, T), fp32: 1 where a token belongs to a document.

    Sums over documents are products with it: unlike atomic additions, they come out the same every
    time.
    """
    rows, length = batch.input_ids.shape
    device = batch.input_ids.device
    if not batch.num_tokens:  # a rank without data runs one token of padding
        return torch.zeros(1, rows * length, device=device)
    if batch.boundaries is not None:
        places = torch.arange(length, device=device)
        starts, ends = batch.boundaries[:-1, None], batch.boundaries[1:, None]
        return ((places >= starts) & (places < ends)).float()
    own = torch.eye(rows, device=device).repeat_interleave(length, dim=1)
    return own if batch.attention_mask is None else own * batch.attention_mask.flatten()


def _real_tokens(batch: MicroBatch) -> torch.Tensor:
    """(T,), fp32: 0 for padding."""
    if batch.attention_mask is not None:
        return batch.attention_mask.flatten().float()
    places = torch.arange(batch.input_ids.numel(), device=batch.input_ids.device)
    return (places < batch.num_tokens).float()


def _document_weights(batch: MicroBatch) -> torch.Tensor:
    """(documents,): the loss weight of each."""
    if batch.boundaries is None:
        return batch.weights.sum(dim=1)
    return _members(batch)[:, batch.positions] @ batch.weights[0]


def router_modules(model: nn.Module) -> list[nn.Module]:
    """What transformers itself records as `router_logits`."""
    recorders = getattr(model, "_can_record_outputs", None) or {}
    recorder = recorders.get("router_logits")
    kind = getattr(recorder, "target_class", None)
    return [] if kind is None else [m for m in model.modules() if isinstance(m, kind)]


def _is_routing(output: Any) -> bool:
    """(logits, scores, chosen experts), as the routers of transformers return them."""
    return (
        isinstance(output, tuple)
        and len(output) == 3
        and output[0].dim() == output[2].dim() == 2
        and not output[2].is_floating_point()
    )
