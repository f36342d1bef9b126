"""Layer inputs that wait in host memory, without tensors: they are counted and made again."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch.autograd.graph import saved_tensors_hooks

from pipeline.trainer.modeling.layers import transformer_layers


class FakeOffload:
    """Takes what the checkpoints of layers keep: their inputs."""

    def __init__(self, model: Any) -> None:
        self.num_bytes = 0
        """Taken in all forward passes so far."""
        for layer in transformer_layers(model):
            layer.forward = cast(Any, self._taking(layer.forward))

    def _taking(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with saved_tensors_hooks(self._take, _make_again):
                return forward(*args, **kwargs)

        return run

    def _take(self, tensor: torch.Tensor) -> tuple[torch.Size, torch.dtype]:
        self.num_bytes += tensor.nbytes
        return tensor.shape, tensor.dtype


def _make_again(taken: tuple[torch.Size, torch.dtype]) -> torch.Tensor:
    return torch.empty(taken[0], dtype=taken[1])
