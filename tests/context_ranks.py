"""What four processes find when they share one packed sequence; test_trainer_context.py reads it.

Run under torchrun: python -m torch.distributed.run --nproc_per_node=4 tests/context_ranks.py DIR
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tiny_models import CONFIGS, gradients, loaded, odd_examples, saved

from pipeline.trainer.data.collate import MicroBatch, collate_trees
from pipeline.trainer.data.example import Example, Span
from pipeline.trainer.data.prefix_tree import PrefixTree
from pipeline.trainer.parallel.context.context_parallel import ContextParallel

CASES: list[tuple[str, str, int]] = [
    ("qwen3", "ulysses", 2),
    ("qwen3", "ulysses", 4),
    ("qwen3", "zigzag-ring", 2),
    ("qwen3", "zigzag-ring", 3),
    ("qwen3", "zigzag-ring", 4),
    ("llama", "ulysses", 4),
    ("llama", "zigzag-ring", 3),
    ("mistral, window of 5 tokens", "ulysses", 2),
]
"""Model family, of four heads and two of keys and values, mode, ranks."""


def shared_batch() -> MicroBatch:
    """One sequence: documents of all lengths, one with branches among them."""
    ids = list(range(3, 60))
    branches = [
        Example([*ids[:length], *reversed(ids[:5])], [Span(length - 1, length + 5, 1.0)])
        for length in (4, 11, 11, 23, 40)
    ]
    alone = [[example] for example in odd_examples(seed=3)]
    documents = [*alone[:3], branches, *alone[3:]]
    return collate_trees([PrefixTree.of(examples) for examples in documents], 0)


def _gradients(directory: Path, batch: MicroBatch, **changes: Any) -> dict[str, torch.Tensor]:
    """The loss, under `loss`, and every gradient."""
    loss, of_weights = gradients(loaded(directory, **changes), [batch])
    return {"loss": torch.tensor(loss), **of_weights}


def _largest_difference(case: tuple[str, str, int], directory: Path, group: Any) -> float:
    """Of the ranks' sum to one rank that has the whole sequence, relative to the largest entry."""
    family, mode, num_ranks = case
    batch = shared_batch()
    expected = _gradients(directory / family, batch, packing=True)
    part = ContextParallel("ulysses" if mode == "ulysses" else "zigzag-ring", group).part(batch)
    found = _gradients(directory / family, part, sequence_parallel_size=num_ranks)
    assert found.keys() == expected.keys()
    differences = []
    for name, value in found.items():
        dist.all_reduce(value, group=group)
        scale = expected[name].abs().max()
        differences.append(((value - expected[name]).abs().max() / scale).item())
    return max(differences)


def main(directory: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    groups = {size: dist.new_group(list(range(size))) for size in (2, 3, 4)}
    if rank == 0:
        for family in {family for family, _, _ in CASES}:
            saved(CONFIGS[family], directory / family)
    dist.barrier()
    found = {}
    for case in CASES:
        if rank < case[2]:
            found[" ".join(map(str, case))] = _largest_difference(case, directory, groups[case[2]])
    if rank == 0:
        (directory / "differences.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
