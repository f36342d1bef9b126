"""A run before it starts: its keys with everything decided, its documents, its plan."""

from dataclasses import dataclass

from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.example_trees import ExampleTrees
from pipeline.trainer.data.plan import Plan
from pipeline.trainer.data.plan_input import Documents
from pipeline.trainer.data.store import TokenStore
from pipeline.trainer.flops import ModelFlops
from pipeline.trainer.modeling.load import load_skeleton
from pipeline.trainer.sharing import with_sharing


@dataclass(frozen=True)
class PlannedRun:
    """`plan` counts the documents of `data`."""

    args: TrainArgs
    data: ExampleTrees
    plan: Plan
    flops: ModelFlops

    @classmethod
    def of(cls, args: TrainArgs, store: TokenStore, world_size: int) -> "PlannedRun":
        """Raises: ConfigError: the keys contradict the model or the data."""
        skeleton = load_skeleton(args)
        args = with_sharing(args, store, skeleton)
        data = ExampleTrees.of(args, store)
        flops = ModelFlops.of(skeleton)
        plan = Plan.of(args, Documents.of(data), world_size, flops.crossover_tokens)
        return cls(args, data, plan, flops)
