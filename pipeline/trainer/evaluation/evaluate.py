"""The loss on documents that are not trained: of all of them, and of each dataset."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.collate import MicroBatch
from pipeline.trainer.data.example_trees import ExampleTrees
from pipeline.trainer.data.plan import Plan
from pipeline.trainer.data.prefetch import prefetch
from pipeline.trainer.evaluation.accuracy import Scorer
from pipeline.trainer.objective import Losses
from pipeline.trainer.parallel.interface import Distributed
from pipeline.trainer.parallel.strategy import Strategy
from pipeline.trainer.preference import REWARDS, reward_sums


@dataclass(frozen=True)
class Evaluation:
    """Mean losses over the weights of trained tokens, as the training loss is."""

    loss: float
    by_dataset: dict[str, float]
    """Empty unless `eval_on_each_dataset` asks for it."""
    num_examples: int
    seconds: float
    scores: dict[str, float] = field(default_factory=dict)
    """What `compute_accuracy` counts, of the samples, or the rewards of pairs, by name; of a
    dataset `<dataset>_<name>`."""

    def metrics(self) -> dict[str, float]:
        """As Transformers names them."""
        each = {f"eval_{name}_loss": loss for name, loss in self.by_dataset.items()}
        scores = {f"eval_{name}": score for name, score in self.scores.items()}
        return {"eval_loss": self.loss, **each, **scores}


def evaluate(
    args: TrainArgs,
    plan: Plan,
    data: ExampleTrees,
    load: Callable[[list[int]], MicroBatch],
    strategy: Strategy,
    distributed: Distributed,
    scorer: Scorer | None,
) -> Evaluation:
    """Measure the model as it is; called by all ranks.

    `load` makes documents, by index, what this rank computes of their micro-batch.
    """
    started = time.monotonic()
    groups = plan.held_out_by_dataset() if args.eval_on_each_dataset else {"": plan.held_out}
    sums: list[list[torch.Tensor]] = []  # on the device: the host waits for them once
    counts = np.zeros((len(groups), Scorer.num_counts))
    with strategy.evaluating():
        for counted, documents in zip(counts, groups.values(), strict=True):
            found_sums: list[torch.Tensor] = []
            batches = plan.evaluation(
                documents, distributed.data_rank, args.per_device_eval_batch_size
            )
            for micro_batch in prefetch(load, batches, distributed.device):
                found = strategy.losses(micro_batch)
                found_sums.append(_sums(found))
                if scorer is not None and found.predictions is not None:
                    counted += scorer.count(micro_batch, found.predictions)
            sums.append(found_sums)
    of_groups = np.array([np.sum([part.tolist() for part in parts], axis=0) for parts in sums])
    of_groups = distributed.all_reduce(of_groups)
    weights = [sum(map(data.loss_weight, documents.tolist())) for documents in groups.values()]
    totals = of_groups.sum(axis=0) / sum(weights)
    means = of_groups / np.array(weights)[:, None]
    scores = [dict(zip(REWARDS, row[1:].tolist(), strict=False)) for row in (totals, *means)]
    if scorer is not None:
        counts = distributed.all_reduce(counts)
        scores = [scorer.metrics(of_group) for of_group in (counts.sum(axis=0), *counts)]
    each = dict(zip(groups, means[:, 0].tolist(), strict=True))
    of_each = {
        f"{name}_{key}": score
        for name, of_group in zip(groups, scores[1:], strict=True)
        for key, score in of_group.items()
    }
    return Evaluation(
        loss=float(totals[0]),
        by_dataset=each if args.eval_on_each_dataset else {},
        num_examples=data.num_examples(plan.held_out),
        seconds=time.monotonic() - started,
        scores=scores[0] | (of_each if args.eval_on_each_dataset else {}),
    )


def _sums(found: Losses) -> torch.Tensor:
    """(1,) the loss, or (5,) with the `reward_sums` of pairs."""
    parts = [found.total.detach().view(1)]
    if found.rewards is not None:
        parts.append(reward_sums(found.rewards))
    return torch.cat(parts)
