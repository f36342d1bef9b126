"""The loss on documents that are not trained: of all of them, and of each dataset."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.collate import MicroBatch
from pipeline.trainer.data.example_trees import ExampleTrees
from pipeline.trainer.data.plan import Plan
from pipeline.trainer.data.prefetch import prefetch
from pipeline.trainer.parallel.interface import Distributed
from pipeline.trainer.parallel.strategy import Strategy


@dataclass(frozen=True)
class Evaluation:
    """Mean losses over the weights of trained tokens, as the training loss is."""

    loss: float
    by_dataset: dict[str, float]
    """Empty unless `eval_on_each_dataset` asks for it."""
    num_examples: int
    seconds: float

    def losses(self) -> dict[str, float]:
        """As Transformers names them."""
        each = {f"eval_{name}_loss": loss for name, loss in self.by_dataset.items()}
        return {"eval_loss": self.loss, **each}


def evaluate(
    args: TrainArgs,
    plan: Plan,
    data: ExampleTrees,
    load: Callable[[list[int]], MicroBatch],
    strategy: Strategy,
    distributed: Distributed,
) -> Evaluation:
    """Measure the model as it is; called by all ranks.

    `load` makes documents, by index, what this rank computes of their micro-batch.
    """
    started = time.monotonic()
    groups = plan.held_out_by_dataset() if args.eval_on_each_dataset else {"": plan.held_out}
    sums: list[list[torch.Tensor]] = []  # on the device: the host waits for them once
    with strategy.evaluating():
        for documents in groups.values():
            losses: list[torch.Tensor] = []
            batches = plan.evaluation(
                documents, distributed.data_rank, args.per_device_eval_batch_size
            )
            for micro_batch in prefetch(load, batches, distributed.device):
                losses.append(strategy.losses(micro_batch).total)
            sums.append(losses)
    totals = distributed.all_reduce([sum(loss.item() for loss in losses) for losses in sums])
    weights = [sum(map(data.loss_weight, documents.tolist())) for documents in groups.values()]
    each = {
        name: total / weight for name, total, weight in zip(groups, totals, weights, strict=True)
    }
    return Evaluation(
        loss=sum(totals) / sum(weights),
        by_dataset=each if args.eval_on_each_dataset else {},
        num_examples=data.num_examples(plan.held_out),
        seconds=time.monotonic() - started,
    )
