"""The tokenised dataset on disk: written once, memory-mapped by every rank of every run.

    <dataset_dir>/tokens/<fingerprint>/
        ids.u32         token ids of all examples, one after the other (uint32, little endian)
        documents.npz   offsets (examples + 1), row (examples), and the loss spans:
                        span_document, span_start, span_end, span_weight
        store.json      counts and parameters; written last: a store without it does not exist

The fingerprint covers the data, the tokenizer with its chat template, the parameters and this
code, so a store is never reused for anything else.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from pipeline import __version__
from pipeline.errors import DataError
from pipeline.files import atomic_open, write_json
from pipeline.sharegpt import from_sharegpt
from pipeline.trainer.data.dataset import Dataset
from pipeline.trainer.data.render import Example, Renderer, Span

logger = logging.getLogger(__name__)

_PARALLEL_FROM_ROWS = 512  # below this, starting processes costs more than it saves
_CHUNK_ROWS = 64
_CODE = ("render.py", "store.py", "dataset.py", "../../sharegpt.py")


@dataclass(frozen=True)
class StoreCounts:
    """What became of the rows. Tokens are counted after cutting."""

    rows: int
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
    renderer_of: "TokenizerSource",
    directory: Path,
    *,
    cutoff_len: int,
    max_samples: int | None,
    num_workers: int,
    rebuild: bool,
) -> TokenStore:
    """The store of these datasets, built by whichever process comes first.

    Needs no process group: the others wait on a file lock, so nothing can time out.

    Raises: DataError: a row cannot be rendered (names the row), or no example fits cutoff_len.
    """
    parameters = {
        "cutoff_len": cutoff_len,
        "max_samples": max_samples,
        "datasets": [dataset.fingerprint() for dataset in datasets],
        "tokenizer": renderer_of.fingerprint(),
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
        counts = _build(target, datasets, renderer_of, cutoff_len, max_samples, num_workers)
        write_json(target / "store.json", {"counts": asdict(counts), "parameters": parameters})
        seconds = time.monotonic() - started
        logger.info("tokenised %s rows in %.1f s -> %s", f"{counts.rows:,}", seconds, target)
    return TokenStore(target)


@dataclass(frozen=True)
class TokenizerSource:
    """Where a tokenizer comes from: enough to load it again in another process."""

    model_name_or_path: str
    revision: str
    trust_remote_code: bool

    def load(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(
            self.model_name_or_path,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
        )

    def fingerprint(self) -> str:
        """Hash of everything that decides the ids: vocabulary, merges, added tokens, template."""
        tokenizer = self.load()
        digest = hashlib.sha256(str(tokenizer.chat_template).encode())
        backend = getattr(tokenizer, "backend_tokenizer", None)
        content = backend.to_str() if backend else json.dumps(tokenizer.get_vocab(), sort_keys=True)
        digest.update(content.encode())
        return digest.hexdigest()


_renderer: Renderer | None = None  # of this worker process


def _start_worker(source: TokenizerSource) -> None:
    global _renderer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core per process
    _renderer = Renderer(source.load())


def _render_chunk(chunk: list[tuple[str, int, dict[str, Any]]]) -> list[tuple[int, list[Example]]]:
    assert _renderer is not None
    rendered = []
    for name, number, row in chunk:
        try:
            messages, tools = from_sharegpt(row)
            rendered.append((number, _renderer.examples(messages, tools)))
        except DataError as error:
            raise DataError(f"dataset {name}: row {number}: {error}") from error
    return rendered


def _chunks(
    datasets: list[Dataset], max_samples: int | None
) -> Iterator[list[tuple[str, int, dict[str, Any]]]]:
    for dataset in datasets:
        rows = enumerate(islice(dataset.rows(), max_samples))
        while chunk := [(dataset.name, number, row) for number, row in islice(rows, _CHUNK_ROWS)]:
            yield chunk


def _rendered(
    datasets: list[Dataset], source: TokenizerSource, max_samples: int | None, num_workers: int
) -> Iterator[tuple[int, list[Example]]]:
    chunks = list(_chunks(datasets, max_samples))
    if num_workers == 1 or sum(map(len, chunks)) < _PARALLEL_FROM_ROWS:
        _start_worker(source)
        for chunk in chunks:
            yield from _render_chunk(chunk)
        return
    with ProcessPoolExecutor(
        num_workers, get_context("spawn"), initializer=_start_worker, initargs=(source,)
    ) as pool:
        for rendered in pool.map(_render_chunk, chunks):
            yield from rendered


def _build(
    target: Path,
    datasets: list[Dataset],
    source: TokenizerSource,
    cutoff_len: int,
    max_samples: int | None,
    num_workers: int,
) -> StoreCounts:
    rows = turns_over = rows_over = longest = trained = 0
    shortest = None
    offsets, row_of, spans, weights = [0], [], [], []
    with atomic_open(target / "ids.u32") as file:
        for number, examples in _rendered(datasets, source, max_samples, num_workers):
            rows += 1
            fitting = 0
            for example in examples:
                longest = max(longest, len(example.ids))
                needed = example.spans[0].end
                shortest = needed if shortest is None else min(shortest, needed)
                cut = example.cut_to(cutoff_len)
                turns_over += len(example.spans) - (len(cut.spans) if cut else 0)
                if cut is None:
                    continue
                fitting += 1
                file.write(np.asarray(cut.ids, dtype="<u4").tobytes())
                spans += [(len(row_of), span.start, span.end) for span in cut.spans]
                weights += [span.weight for span in cut.spans]
                trained += sum(span.end - span.start for span in cut.spans)
                row_of.append(number)
                offsets.append(offsets[-1] + len(cut.ids))
            rows_over += bool(examples) and not fitting
        if not row_of:
            raise DataError(_nothing_left(rows, cutoff_len, shortest))
    table = np.asarray(spans, dtype=np.int64)
    with atomic_open(target / "documents.npz") as file:
        np.savez(
            file,
            offsets=np.asarray(offsets, dtype=np.int64),
            row=np.asarray(row_of, dtype=np.int64),
            span_document=table[:, 0],
            span_start=table[:, 1],
            span_end=table[:, 2],
            span_weight=np.asarray(weights, dtype=np.float32),
        )
    return StoreCounts(
        rows=rows,
        examples=len(row_of),
        tokens=offsets[-1],
        trained_tokens=trained,
        turns_over_cutoff=turns_over,
        rows_over_cutoff=rows_over,
        longest=longest,
        shortest=shortest or 0,
    )


def _nothing_left(rows: int, cutoff_len: int, shortest: int | None) -> str:
    if rows == 0:
        return "the dataset has no rows; convert trajectories first (STEP 0)"
    if shortest is None:
        return f"none of the {rows} rows has an assistant turn with loss weight above 0"
    return (
        f"cutoff_len: no example fits into {cutoff_len} tokens; the shortest needs {shortest}; "
        f"raise training.cutoff_len"
    )


def _code_version() -> str:
    digest = hashlib.sha256(__version__.encode())
    for name in _CODE:
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()
