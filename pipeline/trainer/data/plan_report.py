"""How good a plan is: what it trains, and how much of the machine it keeps busy."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.trainer.data.example_trees import ExampleTrees
from pipeline.trainer.data.plan import Plan
from pipeline.trainer.data.step_load import StepLoad


@dataclass(frozen=True)
class PlanQuality:
    """Shares are between 0 and 1, over all steps of the plan."""

    fill: float
    """Tokens in the room that is made for them: cutoff_len for every packed sequence, else the
    longest example for every one of its micro-batch. 1 where trees are not packed."""
    balance: float
    """Mean over maximum of the ranks' compute per step, weighted by time: what is left of it when
    ranks wait for each other once per step (DDP, ZeRO-0 to 2)."""
    micro_balance: float
    """The same when they wait in every micro-batch (ZeRO-3)."""
    tokens_lost: int
    """Tokens of documents that are in no epoch and are not held out either."""

    @classmethod
    def of(cls, plan: Plan) -> "PlanQuality":
        loads = [StepLoad.of(plan, step) for step in range(1, plan.total_steps + 1)]
        if plan.capacity is None:
            room = sum(load.room for load in loads)
        else:
            sequences = (len(plan.sequences(step)) for step in range(1, plan.total_steps + 1))
            room = plan.capacity * sum(sequences)
        compute = sum(load.compute for load in loads) / plan.world_size
        planned = np.union1d(plan.epochs[0].documents, plan.held_out)
        lost = int(plan.documents.lengths.sum() - plan.documents.lengths[planned].sum())
        return cls(
            fill=sum(load.tokens for load in loads) / room,
            balance=compute / sum(load.slowest for load in loads),
            micro_balance=compute / sum(load.slowest_micro for load in loads),
            tokens_lost=lost,
        )

    def to_record(self) -> dict[str, Any]:
        return {
            "fill": round(self.fill, 4),
            "balance": round(self.balance, 4),
            "micro_balance": round(self.micro_balance, 4),
            "tokens_lost": self.tokens_lost,
        }


@dataclass(frozen=True)
class DatasetShare:
    """What the first epoch has of one dataset; an example that is repeated counts every time."""

    name: str
    documents: int
    tokens: int
    held_out: int
    """Documents that are evaluated."""

    def to_record(self) -> dict[str, int]:
        return {key: value for key, value in asdict(self).items() if key != "name"}


def dataset_shares(plan: Plan) -> list[DatasetShare]:
    """In the order of the store: those that are trained first."""
    trained, documents = plan.epochs[0].documents, plan.documents
    of_trained, of_held_out = documents.datasets[trained], documents.datasets[plan.held_out]
    return [
        DatasetShare(
            name,
            documents=int((of_trained == number).sum()),
            tokens=int(documents.lengths[trained[of_trained == number]].sum()),
            held_out=int((of_held_out == number).sum()),
        )
        for number, name in enumerate(documents.dataset_names)
    ]


def report(plan: Plan, data: ExampleTrees, context_size: int = 1) -> dict[str, Any]:
    """The plan of these documents in numbers, as `sft plan --json` prints it.

    `context_size` processes are each of the plan's ranks.
    """
    counts = data.store.counts
    return {
        "plan": plan.hash,
        "world_size": plan.world_size * context_size,
        "sequence_parallel_size": context_size,
        "global_batch": plan.global_batch_size,
        "steps": plan.total_steps,
        "epochs": plan.epoch_at(plan.total_steps),
        "steps_per_epoch": plan.epoch_ends[0],
        "sequences": len(plan.epochs[0]),
        "documents": len(plan.epochs[0].documents),
        "held_out": len(plan.held_out),
        "datasets": {share.name: share.to_record() for share in dataset_shares(plan)},
        "rows": counts.rows,
        "examples": counts.examples,
        "tokens": counts.tokens,
        "computed_tokens": int(data.lengths.sum()),
        "trained_tokens": counts.trained_tokens,
        "trained_share": round(counts.trained_tokens / counts.tokens, 4),
        **PlanQuality.of(plan).to_record(),
        "turns_over_cutoff": counts.turns_over_cutoff,
        "rows_over_cutoff": counts.rows_over_cutoff,
        "rows_rejected": counts.rows_rejected,
        "cutoff": {policy: asdict(tally) for policy, tally in data.store.cutoff.items()},
    }
