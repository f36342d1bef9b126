"""Rows of the datasets to ids, on all cores, in order."""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from typing import Any

from pipeline.errors import DataError, TrainError
from pipeline.sharegpt import from_sharegpt
from pipeline.trainer.data.dataset import Dataset
from pipeline.trainer.data.render import Example, Renderer

_PARALLEL_FROM_ROWS = 512  # below this, starting processes costs more than it saves
_CHUNK_ROWS = 64


@dataclass(frozen=True)
class TokenizerSource:
    """Where a tokenizer comes from: enough to load it again in another process."""

    model_name_or_path: str
    revision: str
    trust_remote_code: bool

    def load(self) -> Any:
        """Raises: TrainError: there is no tokenizer, on this machine or within reach."""
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(
                self.model_name_or_path,
                revision=self.revision,
                trust_remote_code=self.trust_remote_code,
            )
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise TrainError(
                f"{self.model_name_or_path}: cannot load the tokenizer: {reason}; check "
                "model.model_name_or_path"
            ) from error

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


@dataclass(frozen=True)
class _Row:
    """One row of a dataset on its way to ids."""

    dataset: Dataset
    number: int
    row: dict[str, Any]


@dataclass(frozen=True)
class RenderedRow:
    """What became of it: examples, or the reason why there are none."""

    dataset: str
    number: int
    examples: list[Example]
    error: str = ""


def _render_chunk(chunk: list[_Row]) -> list[RenderedRow]:
    assert _renderer is not None
    return [_render_row(row, _renderer) for row in chunk]


def _render_row(row: _Row, renderer: Renderer) -> RenderedRow:
    try:
        messages, tools = from_sharegpt(row.dataset.canonical(row.row))
        return RenderedRow(row.dataset.name, row.number, renderer.examples(messages, tools))
    except DataError as error:
        return RenderedRow(row.dataset.name, row.number, [], str(error))


def _chunks(datasets: list[Dataset], max_samples: int | None) -> Iterator[list[_Row]]:
    for dataset in datasets:
        rows = enumerate(islice(dataset.rows(), max_samples))
        while chunk := [_Row(dataset, *item) for item in islice(rows, _CHUNK_ROWS)]:
            yield chunk


def render_rows(
    datasets: list[Dataset], source: TokenizerSource, max_samples: int | None, num_workers: int
) -> Iterator[RenderedRow]:
    """Render at most `max_samples` rows of each dataset, in the order of the files."""
    chunks = list(_chunks(datasets, max_samples))
    if num_workers == 1 or sum(map(len, chunks)) < _PARALLEL_FROM_ROWS:
        renderer = Renderer(source.load())
        for chunk in chunks:
            for row in chunk:
                yield _render_row(row, renderer)
        return
    with ProcessPoolExecutor(
        num_workers, get_context("spawn"), initializer=_start_worker, initargs=(source,)
    ) as pool:
        for rendered in pool.map(_render_chunk, chunks):
            yield from rendered
