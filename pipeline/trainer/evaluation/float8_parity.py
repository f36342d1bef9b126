"""What FP8 does to the loss: one forward pass with it and one without, before the first step."""

import logging
from dataclasses import asdict, dataclass

import torch

from pipeline.trainer.data.collate import MicroBatch
from pipeline.trainer.modeling.float8 import count_float8, without_float8
from pipeline.trainer.parallel.interface import Distributed
from pipeline.trainer.parallel.strategy import Strategy

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Float8Parity:
    """The mean loss of the first micro-batches of all ranks, with the same weights."""

    num_linears: int
    """Linears of the layers that compute with FP8."""
    num_linears_in_layers: int
    loss: float
    loss_without_fp8: float

    def announce(self) -> None:
        logger.info(
            "fp8: %d of %d linears of the layers; the first micro-batch's loss is %.4f with FP8, "
            "%.4f without (%+.3f %%)",
            self.num_linears,
            self.num_linears_in_layers,
            self.loss,
            self.loss_without_fp8,
            100 * (self.loss / self.loss_without_fp8 - 1),
        )

    def to_record(self) -> dict[str, float]:
        return asdict(self)


def measure_parity(
    strategy: Strategy, distributed: Distributed, batch: MicroBatch, weight: float
) -> Float8Parity:
    """Called by all ranks, each with a `batch` of its own; `weight` is that of all of them."""
    with strategy.evaluating():
        loss = strategy.losses(batch).total
        with without_float8(strategy.model):
            without = strategy.losses(batch).total
    sums = distributed.all_reduce(torch.stack([loss, without])) / weight
    return Float8Parity(*count_float8(strategy.model), *sums.tolist())
