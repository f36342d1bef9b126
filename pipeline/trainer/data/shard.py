"""One shard of a token store: some consecutive rows as token ids, in one file that checks itself.

    <key>.shard   a safetensors file
        ids                (tokens,) uint32: of all examples of all rows, uncut, one after the
                           other, each without what it shares with the one before it
        lengths            (examples,) uint32: tokens of each example
        shared             (examples,) uint32: how many of them, from the first on, are those of the
                           example before it in its row
        row_examples       (rows,) uint32: how many examples each row has; 0 where it was rejected
        row_keys           (rows, 16) uint8: hash of each row and of how it is rendered
        row_scores         (rows,) float64: what the data says each row is worth; NaN: nothing
        span_counts        (examples,) uint32
        span_starts        (spans,) uint32: positions in all whole examples, one after the other
        span_lengths       (spans,) uint32
        span_weights       (spans,) the place of its loss weight in `weights`
        weights            (weights,) float64
    metadata: {"shard": JSON of {"crc32": of everything behind the header, "pad_token_id": of the
               tokenizer, "errors": {row: why it was rejected}}}

`key` covers the rows and how they are rendered, so a shard is never changed and may be shared by
several stores (hard links).
"""

import json
import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.files import write_bytes
from pipeline.trainer.data.example import Example, Span
from pipeline.trainer.data.prefix_tree import common_prefix

_READ_BYTES = 1 << 20
KEY_BYTES = 16


@dataclass(frozen=True)
class ShardRow:
    """What became of one row: its examples, or the reason why there are none."""

    key: bytes
    examples: list[Example]
    error: str = ""
    score: float | None = None


def write_shard(path: Path, rows: Iterable[ShardRow], pad_token_id: int) -> None:
    """Write the shard under its name, whole or not at all."""
    from safetensors.numpy import save

    tensors, errors = _tensors(list(rows))
    plain = save(tensors)
    # One key: safetensors writes several in any order, and the same rows give the same bytes.
    crc32 = zlib.crc32(_behind_header(plain))
    about = {"crc32": crc32, "pad_token_id": pad_token_id, "errors": errors}
    write_bytes(path, save(tensors, {"shard": json.dumps(about)}))


def _tensors(rows: list[ShardRow]) -> tuple[dict[str, np.ndarray], dict[int, str]]:
    examples = [example for row in rows for example in row.examples]
    lengths = np.array([len(example.ids) for example in examples], dtype=np.uint32)
    first = edges(lengths).tolist()
    spans = [
        (first[number] + span.start, span.end - span.start)
        for number, example in enumerate(examples)
        for span in example.spans
    ]
    table = np.array(spans, dtype=np.uint32).reshape(-1, 2)
    weights, codes = np.unique(
        np.array([span.weight for example in examples for span in example.spans], dtype=np.float64),
        return_inverse=True,
    )
    shared, ids = _stored(rows)
    tensors = {
        "ids": ids,
        "lengths": lengths,
        "shared": shared,
        "row_examples": np.array([len(row.examples) for row in rows], dtype=np.uint32),
        "row_keys": np.frombuffer(b"".join(row.key for row in rows), dtype=np.uint8).reshape(
            -1, KEY_BYTES
        ),
        "row_scores": np.array(
            [math.nan if row.score is None else row.score for row in rows], dtype=np.float64
        ),
        "span_counts": np.array([len(example.spans) for example in examples], dtype=np.uint32),
        "span_starts": np.ascontiguousarray(table[:, 0]),
        "span_lengths": np.ascontiguousarray(table[:, 1]),
        "span_weights": codes.astype(np.min_scalar_type(max(len(weights) - 1, 0))),
        "weights": weights,
    }
    errors = {number: row.error for number, row in enumerate(rows) if row.error}
    return tensors, errors


def _stored(rows: list[ShardRow]) -> tuple[np.ndarray, np.ndarray]:
    """(examples,) tokens that each shares with the one before it, and (tokens,) the others."""
    shared: list[int] = []
    pieces = [np.empty(0, dtype=np.uint32)]
    for row in rows:
        before = pieces[0]
        for example in row.examples:
            ids = np.array(example.ids, dtype=np.uint32)
            shared.append(common_prefix(before, ids))
            pieces.append(ids[shared[-1] :])
            before = ids
    return np.array(shared, dtype=np.uint32), np.concatenate(pieces)


def edges(counts: np.ndarray) -> np.ndarray:
    """(n,) counts -> (n + 1,) int64: where each begins, and at last where all end."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])


def _behind_header(data: bytes) -> memoryview:
    return memoryview(data)[8 + int.from_bytes(data[:8], "little") :]


class Shard:
    """Read access to one shard; its bytes are mapped, not read."""

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        self.path = path
        self._file: Any = safe_open(path, framework="numpy")

    def ids(self, start: int, end: int) -> np.ndarray:
        """(end - start,) uint32: tokens of one example, by their places in all whole examples."""
        example = int(np.searchsorted(self._offsets, start, side="right")) - 1
        first, last = start - int(self._offsets[example]), end - int(self._offsets[example])
        pieces: list[np.ndarray] = []
        while first < last:
            shared = int(self.shared[example])
            own = max(first, shared)
            if own < last:
                place = int(self._stored_at[example]) - shared
                pieces.append(self._ids[place + own : place + last])
                last = own
            example -= 1  # what is left stands in the one before
        if not pieces:
            return np.empty(0, dtype=np.uint32)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces[::-1])

    @cached_property
    def _ids(self) -> Any:
        return self._file.get_slice("ids")

    @cached_property
    def shared(self) -> np.ndarray:
        return self.table("shared").astype(np.int64)

    @cached_property
    def _stored_at(self) -> np.ndarray:
        """Where in `ids` each example's own tokens begin, and at last where all end."""
        return edges(self.table("lengths") - self.shared)

    @property
    def num_stored_tokens(self) -> int:
        return int(self._stored_at[-1])

    def table(self, name: str) -> np.ndarray:
        return self._file.get_tensor(name)

    @cached_property
    def span_starts(self) -> np.ndarray:
        return self.table("span_starts").astype(np.int64)

    @cached_property
    def span_ends(self) -> np.ndarray:
        return self.span_starts + self.table("span_lengths")

    @cached_property
    def span_weights(self) -> np.ndarray:
        """(spans,) float64"""
        return self.table("weights")[self.table("span_weights")]

    @cached_property
    def errors(self) -> dict[int, str]:
        """Rows of this shard, counted from 0, that were rejected, and why."""
        return {int(row): error for row, error in self._about["errors"].items()}

    @property
    def pad_token_id(self) -> int:
        return self._about["pad_token_id"]

    @cached_property
    def _about(self) -> dict[str, Any]:
        return json.loads(self._file.metadata()["shard"])

    @cached_property
    def _first_examples(self) -> np.ndarray:
        return edges(self.table("row_examples"))

    @cached_property
    def _offsets(self) -> np.ndarray:
        return edges(self.table("lengths"))

    @cached_property
    def _first_spans(self) -> np.ndarray:
        return edges(self.table("span_counts"))

    def row(self, number: int) -> ShardRow:
        """One row as it was written, for a shard of other rows."""
        key = self.table("row_keys")[number].tobytes()
        examples = []
        for example in range(self._first_examples[number], self._first_examples[number + 1]):
            start, end = int(self._offsets[example]), int(self._offsets[example + 1])
            chosen = slice(self._first_spans[example], self._first_spans[example + 1])
            spans = [
                Span(int(first) - start, int(last) - start, float(weight))
                for first, last, weight in zip(
                    self.span_starts[chosen],
                    self.span_ends[chosen],
                    self.span_weights[chosen],
                    strict=True,
                )
            ]
            examples.append(Example(self.ids(start, end).tolist(), spans))
        score = float(self.table("row_scores")[number])
        error = self.errors.get(number, "")
        return ShardRow(key, examples, error, None if math.isnan(score) else score)


def is_intact(path: Path) -> bool:
    """Whether the file is a shard and its bytes are those that were written.

    Reads instead of mapping, so that the check of a large store takes no memory.
    """
    try:
        with path.open("rb") as file:
            header = file.read(int.from_bytes(file.read(8), "little"))
            expected = json.loads(json.loads(header)["__metadata__"]["shard"])["crc32"]
            crc32 = 0
            while piece := file.read(_READ_BYTES):
                crc32 = zlib.crc32(piece, crc32)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
        return False
    return crc32 == expected
