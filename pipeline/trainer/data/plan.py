"""Which documents go into which micro-batch of which rank at which step: the whole run, in advance.

    documents --mix--> --order--> --pack--> sequences --global batches--> steps --spread--> ranks

The plan is a pure function of (lengths, turns and rows of the documents, the training keys). Every
rank knows the whole of it without communication, and which documents a step trains depends on the
size of the global batch alone: any number of ranks sees the same ones.

A sequence is what `per_device_train_batch_size` counts: one document or, with packing, as many as
fit into cutoff_len tokens (LLaMA-Factory's meaning). Packed or not, the loss of a step is the sum
over its documents; what shares a sequence does not matter to it.
"""

import hashlib
import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.balance import spread
from pipeline.trainer.data.mix import mixed
from pipeline.trainer.data.order import epoch_sequences, grouped_by_length
from pipeline.trainer.data.packing import Sequences, pack
from pipeline.trainer.data.plan_input import Documents, divide


@dataclass(frozen=True, eq=False)
class Plan:
    """Steps count from 1, epochs from 0. Packing may give epochs different numbers of steps."""

    documents: Documents
    costs: np.ndarray  # (documents,) int64, compute in any unit
    epochs: list[Sequences]
    """All epochs that the run touches, whole; the last may end after `total_steps`."""
    held_out: np.ndarray
    """Documents that are evaluated and in no epoch."""
    micro_batch_size: int
    accumulation_steps: int
    world_size: int
    total_steps: int
    capacity: int | None
    """Tokens that a sequence may hold; None: one document each."""
    pads: bool
    """The sequences of a micro-batch are filled up to its longest one."""
    seed: int
    order: str

    @classmethod
    def of(
        cls, args: TrainArgs, documents: Documents, world_size: int, crossover_tokens: int
    ) -> "Plan":
        """`crossover_tokens`: the length at which attention costs as much as everything else."""
        seed = args.seed if args.data_seed is None else args.data_seed
        global_batch = (
            args.per_device_train_batch_size * args.gradient_accumulation_steps * world_size
        )
        capacity = args.cutoff_len if args.packs else None
        trained, held_out = divide(documents, args.val_size, args.seed)
        trained = mixed(documents, trained, args)
        num_epochs = math.inf if args.max_steps > 0 else args.num_train_epochs
        max_steps = args.max_steps if args.max_steps > 0 else math.inf
        epochs: list[Sequences] = []
        steps = 0
        while len(epochs) < num_epochs and steps < max_steps:
            draw = np.random.default_rng([seed, len(epochs)])
            sequences = epoch_sequences(documents, trained, args.document_order, capacity, draw)
            if args.group_by_length:
                sequences = grouped_by_length(sequences, documents, global_batch, draw)
            share = min(1.0, num_epochs - len(epochs))
            steps += math.ceil(share * math.ceil(len(sequences) / global_batch))
            epochs.append(sequences)
        return cls(
            documents=documents,
            costs=documents.costs(crossover_tokens),
            epochs=epochs,
            held_out=held_out,
            micro_batch_size=args.per_device_train_batch_size,
            accumulation_steps=args.gradient_accumulation_steps,
            world_size=world_size,
            total_steps=args.max_steps if args.max_steps > 0 else steps,
            capacity=capacity,
            pads=not args.concatenates,
            seed=seed,
            order="group_by_length" if args.group_by_length else args.document_order,
        )

    @property
    def global_batch_size(self) -> int:
        """Sequences per step."""
        return self.micro_batch_size * self.accumulation_steps * self.world_size

    @cached_property
    def epoch_ends(self) -> list[int]:
        """The last step of every epoch."""
        steps = [math.ceil(len(epoch) / self.global_batch_size) for epoch in self.epochs]
        return np.cumsum(steps).tolist()

    def epoch_at(self, step: int) -> float:
        """Epochs finished after `step` steps."""
        epoch, first = self._epoch_of(step)
        return epoch + (step - first) / (self.epoch_ends[epoch] - first)

    @cached_property
    def hash(self) -> str:
        """Of the documents of every step, their rows and lengths, whatever the number of ranks."""
        digest = hashlib.sha256(f"{self.total_steps} {self.global_batch_size}".encode())
        digest.update(self.documents.lengths.astype("<i8").tobytes())
        digest.update(self.documents.rows.astype("<i8").tobytes())
        for epoch in self.epochs:
            digest.update(epoch.documents.astype("<i8").tobytes())
            digest.update(epoch.bounds.astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def identity(self) -> dict[str, int | str | None]:
        """What decides which documents come at which step; the same for any number of ranks."""
        return {
            "num_documents": len(self.epochs[0].documents),
            "global_batch_size": self.global_batch_size,
            "packing_capacity": self.capacity,
            "seed": self.seed,
            "order": self.order,
            "total_steps": self.total_steps,
            "plan": self.hash,
        }

    def documents_until(self, step: int) -> int:
        """Documents in the global batches of steps 1 to `step`."""
        epoch, first = self._epoch_of(step)
        bounds = self.epochs[epoch].bounds
        done = min((step - first) * self.global_batch_size, len(bounds) - 1)
        return epoch * int(bounds[-1]) + int(bounds[done])

    def sequences(self, step: int) -> list[np.ndarray]:
        """The documents of every sequence of one step. The last step of an epoch may have fewer."""
        epoch, first = self._epoch_of(step)
        sequences = self.epochs[epoch]
        start = (step - 1 - first) * self.global_batch_size
        stop = min(start + self.global_batch_size, len(sequences))
        return [sequences[index] for index in range(start, stop)]

    def step_sums(self, values: np.ndarray) -> np.ndarray:
        """(steps,) sums of `values`, which are of the documents, over each step."""
        size = self.global_batch_size
        of_epochs = [
            np.add.reduceat(epoch.sums(values), np.arange(0, len(epoch), size))
            for epoch in self.epochs
        ]
        return np.concatenate(of_epochs)[: self.total_steps]

    def global_batch(self, step: int) -> list[int]:
        """Documents of one step, over all ranks."""
        return np.concatenate(self.sequences(step)).tolist()

    def micro_batches(self, step: int, rank: int) -> list[list[int]]:
        """The documents of every micro-step; none where a small last batch has nothing for it."""
        return _micro_batches(self, step)[rank]

    def held_out_by_dataset(self) -> dict[str, np.ndarray]:
        """Name of a dataset -> the documents of it that are evaluated."""
        numbers = self.documents.datasets[self.held_out]
        return {
            self.documents.dataset_names[number]: self.held_out[numbers == number]
            for number in np.unique(numbers)
        }

    def evaluation(self, chosen: np.ndarray, rank: int, batch_size: int) -> list[list[int]]:
        """The `chosen` documents in every batch of one rank; all ranks have as many batches.

        `batch_size` counts sequences, as in training.
        """
        if self.capacity is None:
            sequences = Sequences.one_each(chosen)
        else:
            sequences = pack(chosen, self.documents.lengths, self.capacity, window=len(chosen))
        num_batches = math.ceil(len(sequences) / (self.world_size * batch_size))
        slots = num_batches * batch_size
        of_ranks = spread(sequences.sums(self.costs), self.world_size, slots)
        contents = [sequences[index] for index in range(len(sequences))]
        return _batches(of_ranks[rank], contents, batch_size, num_batches)

    def _epoch_of(self, step: int) -> tuple[int, int]:
        """The epoch that `step` belongs to, and the steps before that epoch."""
        epoch = bisect_left(self.epoch_ends, step)
        return epoch, self.epoch_ends[epoch - 1] if epoch else 0


@lru_cache(maxsize=2)  # of this step and of the next one
def _micro_batches(plan: Plan, step: int) -> list[list[list[int]]]:
    """Documents by rank and micro-step."""
    sequences = plan.sequences(step)
    costs = np.asarray([plan.costs[documents].sum() for documents in sequences])
    size, steps = plan.micro_batch_size, plan.accumulation_steps
    return [
        _batches(indices, sequences, size, steps)
        for indices in spread(costs, plan.world_size, size * steps)
    ]


def _batches(
    indices: list[int], sequences: list[np.ndarray], size: int, num_batches: int
) -> list[list[int]]:
    """The documents of the sequences `indices`, `size` sequences to a batch."""
    return [
        [int(document) for i in indices[k * size : (k + 1) * size] for document in sequences[i]]
        for k in range(num_batches)
    ]
