"""The micro-batch of a plan that needs most memory."""

from dataclasses import replace

import numpy as np
import torch

from pipeline.trainer.data.collate import MicroBatch, collate, collate_trees
from pipeline.trainer.data.example import Example, Span
from pipeline.trainer.data.load import load_micro_batch, load_pairs
from pipeline.trainer.data.plan import Plan
from pipeline.trainer.data.prefix_tree import PrefixTree
from pipeline.trainer.planned_run import PlannedRun


def largest_batch(run: PlannedRun) -> MicroBatch:
    """The tensors, on the host, of the micro-batch with most tokens, padding included."""
    documents = largest_micro_batch(run.plan, concatenates=run.args.concatenates)
    if run.args.trains_pairs:
        return load_pairs(run.data, documents, np.zeros((len(run.data), 2), dtype=np.float32))
    return load_micro_batch(run.data, documents, concatenates=run.args.concatenates)


def largest_micro_batch(plan: Plan, *, concatenates: bool) -> list[int]:
    """Documents of the micro-batch, of any step and rank, with most tokens, padding included."""
    largest, best = 0, []
    for bound, step in _steps_by_bound(plan, concatenates=concatenates):
        if bound <= largest:
            break
        for rank in range(plan.world_size):
            for documents in plan.micro_batches(step, rank):
                tokens = num_tokens(plan, documents, concatenates=concatenates)
                if tokens > largest:
                    largest, best = tokens, documents
    return best


def batch_like(batch: MicroBatch, rows: int, tokens: int) -> MicroBatch:
    """A micro-batch of the same kind, as large as it is told, with the same share of labels."""
    share = len(batch.positions) / batch.input_ids.shape[1]
    trained = Span(start=1, end=1 + max(1, round(share * (tokens - 1))), weight=1.0)
    examples = [Example([0] * tokens, [trained])] * rows
    if batch.position_ids is not None:
        made = collate_trees([PrefixTree.of([example]) for example in examples], 0)
        if batch.pairs is None:
            return made
        pairs = torch.arange(rows).repeat_interleave(len(made.positions) // rows)
        return replace(made, pairs=pairs, references=torch.zeros(rows, 2))
    made = collate(examples, 0)
    return replace(made, attention_mask=None if batch.attention_mask is None else made.input_ids)


def num_tokens(plan: Plan, documents: list[int], *, concatenates: bool) -> int:
    """Of one micro-batch, with padding."""
    lengths = plan.documents.lengths[documents]
    if concatenates:
        return int(lengths.sum())
    return len(documents) * int(lengths.max(initial=0))


def _steps_by_bound(plan: Plan, *, concatenates: bool) -> list[tuple[int, int]]:
    """Steps with what no micro-batch of theirs exceeds, the largest first."""
    size, found = plan.micro_batch_size, []
    for step in range(1, plan.total_steps + 1):
        lengths = np.asarray(
            [plan.documents.lengths[documents].sum() for documents in plan.sequences(step)]
        )
        longest = np.sort(lengths)[-size:]
        bound = longest.sum() if concatenates else size * longest[-1]
        found.append((int(bound), step))
    return sorted(found, key=lambda pair: (-pair[0], pair[1]))
