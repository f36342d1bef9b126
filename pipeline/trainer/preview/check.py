"""Does the plan train what the preview shows? Every document of the first epoch, and held out ones.

store --preview--> examples            --\
store --plan, micro-batch--> tensors   --+--> equal paths and weights, in the order of the store
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.progress import Progress
from pipeline.trainer.data.load import load_micro_batch
from pipeline.trainer.data.plan import Plan
from pipeline.trainer.planned_run import PlannedRun
from pipeline.trainer.preview.trained_paths import TrainedPaths


@dataclass(frozen=True)
class TensorCheck:
    """Hashes over the digests of all checked documents."""

    examples: int
    preview_sha256: str
    training_sha256: str
    differing_rows: list[str]
    """`<dataset>: row <n>` of each document, or all its rows, counted from 1 as in `sft preview`"""

    @property
    def is_equal(self) -> bool:
        return self.preview_sha256 == self.training_sha256

    def to_record(self) -> dict[str, Any]:
        return {**vars(self), "is_equal": self.is_equal}


def check_tensors(planned: PlannedRun, progress: Progress) -> TensorCheck:
    """Collate every micro-batch of the first epoch and of an evaluation, on all ranks."""
    args, plan, data = planned.args, planned.plan, planned.data
    shown: dict[int, str] = {}
    trained: dict[int, str] = {}
    total = len(plan.epochs[0].documents) + len(plan.held_out)
    for documents in _micro_batches(plan, args.per_device_eval_batch_size):
        batch = load_micro_batch(data, documents, concatenates=args.concatenates)
        for index, paths in zip(documents, TrainedPaths.of_batch(batch), strict=True):
            shown[index] = TrainedPaths.of(data.examples(index)).digest()
            if trained.get(index, shown[index]) == shown[index]:  # of several, one that differs
                trained[index] = paths.digest()
        progress.update(len(shown), total)
    return TensorCheck(
        examples=data.num_examples(np.array(list(shown))),
        preview_sha256=_digest(shown),
        training_sha256=_digest(trained),
        differing_rows=[
            f"{data.dataset(index)}: row {', '.join(str(row + 1) for row in data.rows_of(index))}"
            for index in sorted(shown)
            if shown[index] != trained[index]
        ],
    )


def _micro_batches(plan: Plan, eval_batch_size: int) -> Iterator[list[int]]:
    ranks = range(plan.world_size)
    for step in range(1, min(plan.epoch_ends[0], plan.total_steps) + 1):
        for rank in ranks:
            yield from filter(None, plan.micro_batches(step, rank))
    for rank in ranks if len(plan.held_out) else ():
        yield from filter(None, plan.evaluation(plan.held_out, rank, eval_batch_size))


def _digest(digests: dict[int, str]) -> str:
    content = hashlib.sha256()
    for index in sorted(digests):
        content.update(bytes.fromhex(digests[index]))
    return content.hexdigest()
