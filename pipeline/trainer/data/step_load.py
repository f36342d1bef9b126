"""What one step of a plan asks of the ranks."""

from dataclasses import dataclass

import numpy as np

from pipeline.trainer.data.plan import Plan


@dataclass(frozen=True)
class StepLoad:
    """Compute is in the unit of the plan's costs."""

    tokens: int
    room: int
    """Tokens that are computed, padding included."""
    compute: int
    """Of all ranks together."""
    slowest: int
    """Of the rank that has most to do."""
    slowest_micro: int
    """Of the rank that has most to do in each micro-batch, over all of them."""
    num_ranks: int

    @classmethod
    def of(cls, plan: Plan, step: int) -> "StepLoad":
        ranks = [plan.micro_batches(step, rank) for rank in range(plan.world_size)]
        costs = np.asarray([[_cost(plan, batch) for batch in rank] for rank in ranks])
        batches = [batch for rank in ranks for batch in rank]
        return cls(
            tokens=sum(int(plan.documents.lengths[batch].sum()) for batch in batches),
            room=sum(_room(plan, batch) for batch in batches),
            compute=int(costs.sum()),
            slowest=int(costs.sum(axis=1).max()),
            slowest_micro=int(costs.max(axis=0).sum()),
            num_ranks=plan.world_size,
        )


def _room(plan: Plan, batch: list[int]) -> int:
    lengths = plan.documents.lengths[batch]
    return len(batch) * int(lengths.max(initial=0)) if plan.pads else int(lengths.sum())


def _cost(plan: Plan, batch: list[int]) -> int:
    """Compute of one micro-batch; a padded example costs as much as the longest."""
    costs = plan.costs[batch]
    if plan.pads:
        return len(batch) * int(costs.max(initial=0))
    return int(costs.sum())
