"""The tokenised dataset on disk: written once, memory-mapped by every rank of every run.

    <dataset_dir>/tokens/<fingerprint>/
        ids.u32         token ids of all examples, one after the other (uint32, little endian)
        documents.npz   offsets (examples + 1), row (examples), and the loss spans:
                        span_document, span_start, span_end, span_weight
        rejected.jsonl  rows that cannot be rendered: {"dataset", "row", "message"}
        store.json      counts and parameters; written last: a store without it does not exist

The fingerprint covers the data, the tokenizer with its chat template, the parameters and this
code, so a store is never reused for anything else.
"""

import hashlib
import json
import logging
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np
from filelock import FileLock

from pipeline import __version__
from pipeline.errors import DataError
from pipeline.files import atomic_open, write_json
from pipeline.trainer.data.dataset import Dataset
from pipeline.trainer.data.render import Example, Span
from pipeline.trainer.data.tokenize import RenderedRow, TokenizerSource, render_rows

logger = logging.getLogger(__name__)

_CODE = ("dataset.py", "render.py", "store.py", "tokenize.py", "../../sharegpt.py")


@dataclass(frozen=True)
class StoreCounts:
    """What became of the rows. Tokens are counted after cutting."""

    rows: int
    rows_rejected: int
    """Rows that are no conversation or that the chat template cannot render exactly."""
    examples: int
    tokens: int
    trained_tokens: int
    turns_over_cutoff: int
    """Trained turns that did not fit into cutoff_len and are not trained."""
    rows_over_cutoff: int
    """Rows of which not even the first trained turn fits."""
    longest: int
    """Tokens of the longest example before cutting."""
    shortest: int
    """Tokens needed for the first trained turn of the shortest example."""


class TokenStore:
    """Read access to a finished store. Cheap to open; pages are shared between processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.fingerprint = directory.name
        meta = json.loads((directory / "store.json").read_bytes())
        self.counts = StoreCounts(**meta["counts"])
        self._ids = np.memmap(directory / "ids.u32", dtype="<u4", mode="r")
        tables = np.load(directory / "documents.npz")
        self._offsets = tables["offsets"]
        self._rows = tables["row"]
        self._first_span = np.searchsorted(
            tables["span_document"], np.arange(len(self._rows) + 1), side="left"
        )
        self._spans = np.stack([tables["span_start"], tables["span_end"]], axis=1)
        self._weights = tables["span_weight"]
        lengths = (self._spans[:, 1] - self._spans[:, 0]) * self._weights
        self._loss_weight = np.bincount(
            tables["span_document"], weights=lengths, minlength=len(self._rows)
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        ids = self._ids[self._offsets[index] : self._offsets[index + 1]].tolist()
        first, last = self._first_span[index], self._first_span[index + 1]
        spans = [
            Span(int(start), int(end), float(weight))
            for (start, end), weight in zip(
                self._spans[first:last], self._weights[first:last], strict=True
            )
        ]
        return Example(ids, spans)

    def num_tokens(self, index: int) -> int:
        return int(self._offsets[index + 1] - self._offsets[index])

    def loss_weight(self, index: int) -> float:
        """Sum of the loss weights over the tokens of one example."""
        return float(self._loss_weight[index])

    def row(self, index: int) -> int:
        """Row of the dataset(s) that the example came from, counted from 0."""
        return int(self._rows[index])


def open_or_build(
    datasets: list[Dataset],
    tokenizer: TokenizerSource,
    directory: Path,
    *,
    cutoff_len: int,
    max_samples: int | None,
    num_workers: int,
    rebuild: bool,
) -> TokenStore:
    """The store of these datasets, built by whichever process comes first.

    Needs no process group: the others wait on a file lock, so nothing can time out.

    Raises: DataError: no row can be rendered (names the first reason), or none fits cutoff_len.
    """
    parameters = {
        "cutoff_len": cutoff_len,
        "max_samples": max_samples,
        "datasets": [dataset.fingerprint() for dataset in datasets],
        "tokenizer": tokenizer.fingerprint(),
        "code": _code_version(),
    }
    key = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:16]
    target = directory / key
    directory.mkdir(parents=True, exist_ok=True)
    asked_at = time.time()
    with FileLock(directory / f"{key}.lock"):
        finished = target / "store.json"
        # `rebuild` asks for one build per start: ranks that waited for it take the fresh one.
        if finished.is_file() and not (rebuild and finished.stat().st_mtime < asked_at):
            return TokenStore(target)
        shutil.rmtree(target, ignore_errors=True)  # what a killed build left
        started = time.monotonic()
        counts = _build(target, datasets, tokenizer, cutoff_len, max_samples, num_workers)
        write_json(target / "store.json", {"counts": asdict(counts), "parameters": parameters})
        seconds = time.monotonic() - started
        logger.info("tokenised %s rows in %.1f s -> %s", f"{counts.rows:,}", seconds, target)
    return TokenStore(target)


def _build(
    target: Path,
    datasets: list[Dataset],
    source: TokenizerSource,
    cutoff_len: int,
    max_samples: int | None,
    num_workers: int,
) -> StoreCounts:
    tables = _Tables(cutoff_len)
    with (
        atomic_open(target / "ids.u32") as ids,
        atomic_open(target / "rejected.jsonl") as rejected,
    ):
        for rendered in render_rows(datasets, source, max_samples, num_workers):
            if rendered.error:
                record = {
                    "dataset": rendered.dataset,
                    "row": rendered.number,
                    "message": rendered.error,
                }
                rejected.write(json.dumps(record).encode() + b"\n")
            for example in tables.add(rendered):
                ids.write(np.asarray(example.ids, dtype="<u4").tobytes())
        tables.check()
    with atomic_open(target / "documents.npz") as file:
        tables.write(file)
    return tables.counts()


class _Tables:
    """Everything about the examples but their ids, collected row by row."""

    def __init__(self, cutoff_len: int) -> None:
        self._cutoff_len = cutoff_len
        self._offsets, self._row = [0], []
        self._spans: list[tuple[int, int, int]] = []  # document, start, end
        self._weights: list[float] = []
        self._rows = self._rows_over = self._turns_over = self._longest = 0
        self._shortest: int | None = None
        self._errors: list[str] = []

    def add(self, rendered: RenderedRow) -> list[Example]:
        """Returns: the examples that are kept, cut to length."""
        self._rows += 1
        if rendered.error:
            self._errors.append(
                f"dataset {rendered.dataset}: row {rendered.number}: {rendered.error}"
            )
        kept = []
        for example in rendered.examples:
            self._longest = max(self._longest, len(example.ids))
            needed = example.spans[0].end
            self._shortest = needed if self._shortest is None else min(self._shortest, needed)
            cut = example.cut_to(self._cutoff_len)
            self._turns_over += len(example.spans) - (len(cut.spans) if cut else 0)
            if cut is None:
                continue
            self._spans += [(len(self._row), span.start, span.end) for span in cut.spans]
            self._weights += [span.weight for span in cut.spans]
            self._row.append(rendered.number)
            self._offsets.append(self._offsets[-1] + len(cut.ids))
            kept.append(cut)
        self._rows_over += bool(rendered.examples) and not kept
        return kept

    def check(self) -> None:
        """Raises: DataError: nothing is left to train on."""
        if self._row:
            return
        if self._rows == 0:
            raise DataError("the dataset has no rows; convert trajectories first (STEP 0)")
        if self._shortest is not None:
            raise DataError(
                f"cutoff_len: no example fits into {self._cutoff_len} tokens; the shortest needs "
                f"{self._shortest}; raise training.cutoff_len"
            )
        reason = self._errors[0] if self._errors else "no assistant turn has loss weight above 0"
        raise DataError(f"none of the {self._rows:,} rows can be trained on; the first: {reason}")

    def write(self, file: IO[bytes]) -> None:
        table = np.asarray(self._spans, dtype=np.int64)
        np.savez(
            file,
            offsets=np.asarray(self._offsets, dtype=np.int64),
            row=np.asarray(self._row, dtype=np.int64),
            span_document=table[:, 0],
            span_start=table[:, 1],
            span_end=table[:, 2],
            span_weight=np.asarray(self._weights, dtype=np.float32),
        )

    def counts(self) -> StoreCounts:
        return StoreCounts(
            rows=self._rows,
            rows_rejected=len(self._errors),
            examples=len(self._row),
            tokens=self._offsets[-1],
            trained_tokens=sum(end - start for _, start, end in self._spans),
            turns_over_cutoff=self._turns_over,
            rows_over_cutoff=self._rows_over,
            longest=self._longest,
            shortest=self._shortest or 0,
        )


def _code_version() -> str:
    digest = hashlib.sha256(__version__.encode())
    for name in _CODE:
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()
