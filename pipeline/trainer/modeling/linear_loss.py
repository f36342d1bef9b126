"""The lm_head and its cross-entropy in one, in chunks of tokens: all logits never exist at once.

The gradients of a chunk are made while its logits are there, and scaled in the backward pass:
three matrix products per chunk as in the plain computation, none of them twice. Beside the
gradients themselves, memory is `2 x CHUNK_ELEMENTS`, whatever the number of tokens.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from pipeline.trainer.data.collate import IGNORE_INDEX

CHUNK_ELEMENTS = 2**28
"""Logits per chunk: 1 GiB in fp32; 1,766 tokens of Qwen3's vocabulary keep a GPU busy."""


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    weights: torch.Tensor,
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The weighted sum of the negative log likelihoods of `hidden @ weight.T + bias`, and each.

    hidden (N, H), weight (V, H), bias (V,), labels and weights (N,). Under autocast the products
    are in its precision; likelihoods and sums are fp32 always.

    Returns: the sum, from which gradients flow; the likelihoods (N,), without gradient, 0 where the
        label is IGNORE_INDEX; without gradients also the likeliest tokens (N,).
    """
    device = hidden.device.type
    dtype = weight.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    # Within the function autocast would cast the weight once per chunk.
    with torch.autocast(device, enabled=False):
        return _LinearCrossEntropy.apply(
            hidden,
            weight,
            bias,
            labels,
            weights,
            dtype,
            max(1, chunk_elements // len(weight)),
            torch.is_grad_enabled(),  # needs_input_grad does not know
        )


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        weights: torch.Tensor,
        dtype: torch.dtype,
        chunk_tokens: int,
        is_training: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        needed = ctx.needs_input_grad if is_training else (False,) * 3
        gradients = _Gradients.zeros(needed, hidden, weight, bias)
        low_weight = weight.to(dtype)
        low_bias = None if bias is None else bias.to(dtype)
        losses, predictions = [], []
        chunks = zip(*(t.split(chunk_tokens) for t in (hidden, labels, weights)), strict=True)
        for number, (part, part_labels, part_weights) in enumerate(chunks):
            low = part.to(dtype)
            logits = linear(low, low_weight, low_bias)  # (chunk, V)
            log_probabilities = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
            is_label = part_labels != IGNORE_INDEX
            index = part_labels.clamp(min=0)[:, None]
            picked = log_probabilities.gather(1, index)
            losses.append(torch.where(is_label, -picked.squeeze(1), 0.0))
            if not is_training:
                predictions.append(logits.argmax(dim=-1))
            if gradients.any:
                scale = torch.where(is_label, part_weights, 0.0)[:, None]
                error = torch.exp(log_probabilities, out=logits)  # the logits have done their duty
                # Probability minus one, which in bf16 would be lost near one.
                error.scatter_(1, index, torch.expm1(picked).to(dtype))
                place = slice(number * chunk_tokens, number * chunk_tokens + len(part))
                gradients.add(place, error, low, low_weight, scale)
            del logits, log_probabilities  # before the next chunk has its own
        all_losses = torch.cat(losses)
        ctx.save_for_backward(gradients.hidden, gradients.in_dtype(weight), gradients.bias)
        ctx.mark_non_differentiable(all_losses)
        total = (all_losses * weights).sum()
        return total, all_losses, None if is_training else torch.cat(predictions)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # by the decorator
        ctx: Any, of_total: torch.Tensor, _of_losses: torch.Tensor, _of_predictions: None
    ) -> tuple[torch.Tensor | None, ...]:
        scaled = [
            # In place: nobody else has them, and the weight's is the largest tensor of the model.
            None if gradient is None else gradient.mul_(of_total)
            for gradient in ctx.saved_tensors
        ]
        return (*scaled, None, None, None, None, None)


class _Gradients:
    """Of the sum of losses, in fp32 for what all chunks add to."""

    def __init__(
        self,
        hidden: torch.Tensor | None,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
    ) -> None:
        self.hidden, self.weight, self.bias = hidden, weight, bias

    @classmethod
    def zeros(
        cls,
        needed: tuple[bool, ...],
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> "_Gradients":
        return cls(
            torch.empty_like(hidden) if needed[0] else None,  # every chunk fills its own rows
            torch.zeros_like(weight, dtype=torch.float32) if needed[1] else None,
            torch.zeros_like(bias) if bias is not None and needed[2] else None,
        )

    @property
    def any(self) -> bool:
        return any(part is not None for part in (self.hidden, self.weight, self.bias))

    def add(
        self,
        place: slice,
        error: torch.Tensor,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        scale: torch.Tensor,
    ) -> None:
        """error (chunk, V), hidden (chunk, H), weight (V, H) in one dtype; scale (chunk, 1)."""
        if self.hidden is not None:
            self.hidden[place] = (error @ weight) * scale
        if self.weight is not None:
            scaled = (hidden * scale).to(hidden.dtype)
            if scaled.dtype == torch.float32:
                torch.addmm(self.weight, error.T, scaled, out=self.weight)
            else:
                self.weight += error.T @ scaled
        if self.bias is not None:
            self.bias += (error * scale).sum(dim=0)

    def in_dtype(self, parameter: torch.Tensor) -> torch.Tensor | None:
        return None if self.weight is None else self.weight.to(parameter.dtype)
