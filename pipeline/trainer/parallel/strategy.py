"""What the loop needs of a parallel strategy; one module of this folder per implementation."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from transformers import PreTrainedModel

from pipeline.trainer.args import TrainArgs
from pipeline.trainer.checkpoint.state_files import SavedState
from pipeline.trainer.data.collate import MicroBatch
from pipeline.trainer.objective import Losses
from pipeline.trainer.parallel.fsdp_config import sharding_of
from pipeline.trainer.parallel.interface import Distributed
from pipeline.trainer.parallel.parts import Part

Accepts = Callable[[float], bool]


class Strategy(Protocol):
    """Holds model and optimizer. Gradients are *summed* over ranks and micro-steps."""

    name: str
    model: PreTrainedModel
    """As transformers made it, inside whatever the strategy wraps around."""
    num_parameters: int
    """Parameters of the whole model, whichever part this rank holds."""

    def begin_step(self, learning_rate: float) -> None:
        """Before the first forward pass of a step."""
        ...

    def losses(self, batch: MicroBatch) -> Losses:
        """Forward pass of one micro-batch, on the device of this rank."""
        ...

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        """Add this micro-step's gradients; ranks meet at the last one of a step."""
        ...

    def evaluating(self) -> AbstractContextManager[None]:
        """Within it, `losses` are those of the model in use: no gradients, no dropout."""
        ...

    def step(self, accepts: Accepts | None = None) -> torch.Tensor | float:
        """Clip, update, clear. Returns the global gradient norm before clipping.

        A scalar on the device is better: the host need not wait for it. But `accepts`, told this
        norm, says on the host whether to update at all.
        """
        ...

    def state(self) -> list[Part]:
        """What this rank saves of the weights and the optimizer: with those of the other ranks
        everything, as views where possible. No collective."""
        ...

    def load_state(self, saved: SavedState) -> None:
        """Continue from the state of any strategy on any number of ranks.

        Called by all ranks, right after construction.
        """
        ...


def make_strategy(args: TrainArgs, distributed: Distributed) -> Strategy:
    """The strategy that the training YAML asks for, with the model loaded and on its device."""
    sharding = sharding_of(args, os.environ)
    if sharding is not None:
        from pipeline.trainer.parallel.fsdp2 import FullySharded

        return FullySharded(args, distributed, sharding)
    if args.deepspeed:
        from pipeline.trainer.parallel.deepspeed import DeepSpeed

        return DeepSpeed(args, distributed)
    from pipeline.trainer.parallel.ddp import DataParallel

    return DataParallel(args, distributed)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Without gradients and in evaluation mode; afterwards in training mode."""
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train()
