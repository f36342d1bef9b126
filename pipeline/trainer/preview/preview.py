"""What one row of the data becomes in training: ids, labels and weights, taken from the store.

TrainArgs, row number  ->  Preview(examples=[PreviewedExample(runs=[Run(text, weight), ...])])
"""

from collections import Counter
from dataclasses import dataclass
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, DataError
from pipeline.preference_pairs import pair_sides
from pipeline.progress import show_progress
from pipeline.sharegpt import from_sharegpt
from pipeline.trainer.args import TrainArgs, dataset_names
from pipeline.trainer.data.build import open_or_build
from pipeline.trainer.data.collate import IGNORE_INDEX
from pipeline.trainer.data.dataset import Dataset, find_datasets
from pipeline.trainer.data.example import Example
from pipeline.trainer.data.prefix_tree import common_prefix
from pipeline.trainer.data.tokenize import TokenizerSource
from pipeline.trainer.preview.sequence import Sequence


@dataclass(frozen=True)
class Run:
    """Tokens side by side that carry the same loss; a special token is a run of its own."""

    text: str
    weight: float | None
    """None: context, without loss."""
    is_special: bool
    num_tokens: int


@dataclass(frozen=True)
class PreviewedExample:
    """One training sequence."""

    sequence: Sequence
    runs: list[Run]
    num_shared: int
    """Tokens at its beginning that are those of the example before it (`share_prefixes`)."""

    @property
    def num_tokens(self) -> int:
        return len(self.sequence.ids)

    @property
    def num_trained(self) -> int:
        return int((self.sequence.labels != IGNORE_INDEX).sum())


@dataclass(frozen=True)
class Count:
    """How many there are, and how many of them in turns that carry loss."""

    total: int
    trained: int


@dataclass(frozen=True)
class Preview:
    """One row; `row` counts from 1."""

    row: int
    store: Path
    examples: list[PreviewedExample]
    roles: dict[str, Count]
    """Messages by role."""
    tools: dict[str, Count]
    """Calls by tool."""

    def to_record(self) -> dict[str, Any]:
        return {
            "row": self.row,
            "store": str(self.store),
            "roles": {name: vars(count) for name, count in self.roles.items()},
            "tools": {name: vars(count) for name, count in self.tools.items()},
            "examples": [
                {
                    "tokens": example.num_tokens,
                    "trained_tokens": example.num_trained,
                    "shared_tokens": example.num_shared,
                    "sha256": example.sequence.digest(),
                    "ids": example.sequence.ids.tolist(),
                    "labels": example.sequence.labels.tolist(),
                    "weights": example.sequence.weights.tolist(),
                    "runs": [vars(run) for run in example.runs],
                }
                for example in self.examples
            ],
        }


def preview_row(args: TrainArgs, row: int, name: str | None = None) -> Preview:
    """Open the store that training will open (and make it if there is none), and look at one row.

    Args:
        name: of the dataset; needed where several are trained.

    Raises: ConfigError: no such dataset, or several; DataError: no such row, or no turn of it is
        trained.
    """
    name = _dataset_name(args, name)
    [dataset] = find_datasets(Path(args.dataset_dir), name, args.stage)
    source = _source_row(dataset, row)
    with show_progress("tokenise", "rows") as progress:
        store = open_or_build(args, progress).store
    tokenizer = TokenizerSource.of(args).load()
    found = store.examples_of(name, row - 1)
    if not found:
        raise DataError(
            f"row {row}: nothing of it is trained: no turn carries loss, it does not fit into "
            f"cutoff_len, or it cannot be rendered ({store.directory / 'rejected.jsonl'})"
        )
    messages = _messages(source)
    return Preview(
        row,
        store.directory,
        _previewed(found, tokenizer),
        _count((message["role"], _is_trained(message)) for message in messages),
        _count(
            (call["function"]["name"], _is_trained(message))
            for message in messages
            for call in message.get("tool_calls") or []
        ),
    )


def _dataset_name(args: TrainArgs, name: str | None) -> str:
    trained = dataset_names(args.dataset)
    known = trained + dataset_names(args.eval_dataset)
    if name is None and len(trained) > 1:
        raise ConfigError(f"dataset: several are trained; add --dataset ({', '.join(known)})")
    if name is not None and name not in known:
        raise ConfigError(f"--dataset {name}: not in the YAML (it has {', '.join(known)})")
    return name or trained[0]


def _source_row(dataset: Dataset, row: int) -> dict[str, Any]:
    for found in islice(dataset.rows(), row - 1, row):
        return dataset.canonical(found)
    raise DataError(f"row {row}: dataset {dataset.name!r} has fewer rows")


def _messages(source: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a conversation, of both sides of a pair, or none of a text."""
    if "text" in source:
        return []
    sides = pair_sides(source) if "chosen" in source else (source,)
    return [message for side in sides for message in from_sharegpt(side)[0]]


def _is_trained(message: dict[str, Any]) -> bool:
    return message["role"] == "assistant" and message.get("weight", 1.0) > 0


def _count(items: Any) -> dict[str, Count]:
    pairs = list(items)
    total = Counter(name for name, _ in pairs)
    trained = Counter(name for name, is_trained in pairs if is_trained)
    return {name: Count(total[name], trained[name]) for name in total}


def _previewed(examples: list[Example], tokenizer: Any) -> list[PreviewedExample]:
    sequences = [Sequence.of(example) for example in examples]
    shared = [0, *(common_prefix(one.ids, other.ids) for one, other in pairwise(sequences))]
    return [
        PreviewedExample(sequence, _runs(sequence, tokenizer), count)
        for sequence, count in zip(sequences, shared, strict=True)
    ]


def _runs(sequence: Sequence, tokenizer: Any) -> list[Run]:
    special = set(tokenizer.all_special_ids)
    special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    tokens = [
        # A special token's place keeps it apart from the next one.
        (position if token in special else -1, None if label == IGNORE_INDEX else weight, token)
        for position, (token, label, weight) in enumerate(
            zip(
                sequence.ids.tolist(),
                sequence.labels.tolist(),
                sequence.weights.tolist(),
                strict=True,
            )
        )
    ]
    runs = []
    for (position, weight), group in groupby(tokens, key=lambda item: item[:2]):
        ids = [token for _, _, token in group]
        runs.append(Run(tokenizer.decode(ids), weight, position >= 0, len(ids)))
    return runs
