"""The model's output layer as one that gives losses instead of logits."""

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import MoeModelOutputWithPast

from pipeline.trainer.modeling.linear_loss import linear_cross_entropy

logger = logging.getLogger(__name__)


class LossHead(nn.Linear):
    """A linear output layer that computes its loss itself when labels come along.

    So the weights are used where every strategy makes them whole: in a call of this module.
    """

    @classmethod
    def of(cls, layer: nn.Linear) -> "LossHead":
        """A head with the very parameters of `layer`, tied and partitioned as they are."""
        head = cls(layer.in_features, layer.out_features, bias=False, device="meta")
        head.weight, head.bias = layer.weight, layer.bias
        return head.train(layer.training)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # labels are optional
        self,
        input: torch.Tensor,
        labels: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> Any:
        """input (..., H) -> logits (..., V); with labels and weights (B, K) for input (B, K, H):
        the weighted sum of losses, the losses (B, K), and without gradients the likeliest tokens
        (B, K)."""
        if labels is None or weights is None:
            return super().forward(input)
        total, losses, predictions = linear_cross_entropy(
            input.flatten(0, 1), self.weight, self.bias, labels.flatten(), weights.flatten()
        )
        return (
            total,
            losses.view_as(labels),
            None if predictions is None else predictions.view_as(labels),
        )


def install_loss_head(model: Any) -> LossHead | None:
    """Give `model`, a causal LM, a `LossHead`.

    Returns: None: its logits are more than a linear layer of the last hidden states (scaled, soft
        capped, adapted), so only the model itself can compute them.
    """
    layer = model.get_output_embeddings()
    if isinstance(layer, LossHead):
        return layer
    if type(layer) is not nn.Linear or not _only_projects(model, layer):
        logger.info(
            "%s may do more with its hidden states than project them onto the vocabulary: the loss "
            "is computed from the logits of all trained tokens at once",
            type(model).__name__,
        )
        return None
    head = LossHead.of(layer)
    model.set_output_embeddings(head)
    return head


def _only_projects(model: Any, layer: nn.Linear) -> bool:
    """Are the logits just what `layer` makes of the decoder's states at the wanted positions?

    Asked of the model's own forward pass, with decoder and `layer` replaced by stand-ins.
    """
    decoder = model.base_model
    if decoder is model or "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return False
    states = torch.arange(12.0).view(1, 3, 4)
    kept = torch.tensor([0, 2])
    logits = torch.zeros(1, 2, 5)
    seen: list[torch.Tensor] = []

    def decode(*_: Any, **__: Any) -> Any:
        return MoeModelOutputWithPast(last_hidden_state=states)  # pyright: ignore[reportArgumentType]  # a FloatTensor is a Tensor

    def project(hidden: torch.Tensor) -> torch.Tensor:
        seen.append(hidden)
        return logits

    try:
        with _forward_of(decoder, decode), _forward_of(layer, project):
            ids = torch.zeros(1, 3, dtype=torch.long)
            found = model(input_ids=ids, logits_to_keep=kept, use_cache=False).logits
    except Exception as error:  # a model of any shape: then it is not this one
        logger.debug("%s: %s", type(model).__name__, error)
        return False
    return found is logits and len(seen) == 1 and torch.equal(seen[0], states[:, kept])


@contextmanager
def _forward_of(module: nn.Module, stand_in: Callable[..., Any]) -> Iterator[None]:
    own = vars(module).get("forward")
    module.forward = stand_in
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own
