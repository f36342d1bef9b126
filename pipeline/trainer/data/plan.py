"""Which examples go into which micro-batch of which rank at which step.

The plan is a pure function of (number of examples, batch sizes, seed), so that every rank knows the
whole global batch without communication, and any number of ranks sees the same examples at the
same step.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipeline.trainer.args import TrainArgs


@dataclass(frozen=True)
class Plan:
    """Steps count from 1, epochs from 0."""

    num_examples: int
    micro_batch_size: int
    accumulation_steps: int
    world_size: int
    total_steps: int
    seed: int
    shuffle: bool

    @classmethod
    def of(cls, args: TrainArgs, num_examples: int, world_size: int) -> "Plan":
        global_batch = (
            args.per_device_train_batch_size * args.gradient_accumulation_steps * world_size
        )
        steps_per_epoch = math.ceil(num_examples / global_batch)
        by_epochs = math.ceil(args.num_train_epochs * steps_per_epoch)
        return cls(
            num_examples=num_examples,
            micro_batch_size=args.per_device_train_batch_size,
            accumulation_steps=args.gradient_accumulation_steps,
            world_size=world_size,
            total_steps=args.max_steps if args.max_steps > 0 else by_epochs,
            seed=args.seed if args.data_seed is None else args.data_seed,
            shuffle=not args.disable_shuffling,
        )

    @property
    def global_batch_size(self) -> int:
        return self.micro_batch_size * self.accumulation_steps * self.world_size

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.num_examples / self.global_batch_size)

    def epoch_at(self, step: int) -> float:
        """Epochs finished after `step` steps."""
        return step / self.steps_per_epoch

    def identity(self) -> dict[str, int | bool]:
        """What decides which examples come at which step."""
        return {
            "num_examples": self.num_examples,
            "global_batch_size": self.global_batch_size,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "total_steps": self.total_steps,
        }

    def examples_until(self, step: int) -> int:
        """Examples in the global batches of steps 1 to `step`."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs * self.num_examples + steps * self.global_batch_size

    def global_batch(self, step: int) -> list[int]:
        """Examples of one step, over all ranks. The last one of an epoch may be smaller."""
        epoch, place = divmod(step - 1, self.steps_per_epoch)
        order = _order(self.num_examples, self.seed if self.shuffle else None, epoch)
        first = place * self.global_batch_size
        return order[first : first + self.global_batch_size].tolist()

    def micro_batches(self, step: int, rank: int) -> list[list[int]]:
        """One list per micro-step; empty where a small last batch has nothing for this rank."""
        batch = self.global_batch(step)
        starts = [
            (micro_step * self.world_size + rank) * self.micro_batch_size
            for micro_step in range(self.accumulation_steps)
        ]
        return [batch[start : start + self.micro_batch_size] for start in starts]


@lru_cache(maxsize=2)
def _order(num_examples: int, seed: int | None, epoch: int) -> np.ndarray:
    if seed is None:
        return np.arange(num_examples)
    return np.random.default_rng([seed, epoch]).permutation(num_examples)
