"""Documents of a store to the micro-batch that trains them: the only way from one to the other."""

from dataclasses import replace

import numpy as np
import torch

from pipeline.trainer.data.collate import MicroBatch, collate, collate_trees
from pipeline.trainer.data.example_trees import ExampleTrees


def load_micro_batch(data: ExampleTrees, documents: list[int], *, concatenates: bool) -> MicroBatch:
    """The tensors, on the host, of some documents by index."""
    pad_token_id = data.store.pad_token_id
    if concatenates:
        return collate_trees([data.tree(index) for index in documents], pad_token_id)
    examples = [example for index in documents for example in data.examples(index)]
    return collate(examples, pad_token_id)


def load_pairs(data: ExampleTrees, documents: list[int], references: np.ndarray) -> MicroBatch:
    """The tensors, on the host, of some pairs by index.

    references (all pairs, 2): log likelihoods before the training; zeros without such.
    """
    trees = [data.tree(index) for index in documents]
    numbers = np.repeat(np.arange(len(trees)), [len(tree.labels) for tree in trees])
    return replace(
        collate_trees(trees, data.store.pad_token_id, at_targets=data.store.scores_ends),
        pairs=torch.from_numpy(numbers if len(trees) else np.zeros(1, dtype=np.int64)),
        references=torch.from_numpy(references[documents]).float().view(-1, 2),
    )
