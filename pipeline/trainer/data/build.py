"""Makes a token store: every row is tokenised once, by all cores, and never again.

Finished shards survive a kill, and a shard or row that another store beside this one holds is
taken from there. A store is made by whoever comes first; nobody else is waited for but by a lock
on a file, so that no collective operation can time out.
"""

import functools
import json
import logging
import os
import shutil
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from pipeline.conversion.workers import map_in_order, usable_cores
from pipeline.errors import DataError, TrainError
from pipeline.files import atomic_open, write_json
from pipeline.progress import Progress
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.chunks import Chunk, plan_chunks
from pipeline.trainer.data.document_table import DOCUMENT, whole_documents
from pipeline.trainer.data.encode import EncoderName
from pipeline.trainer.data.known_rows import KnownRows
from pipeline.trainer.data.read_files import ReadFiles
from pipeline.trainer.data.shard import Shard, is_intact
from pipeline.trainer.data.store import (
    DOCUMENTS_FILE,
    REJECTED_FILE,
    STORE_FILE,
    StoreSpec,
    TokenStore,
    store_directory,
)
from pipeline.trainer.data.tally import Tally
from pipeline.trainer.data.tokenize import (
    ShardWork,
    Tokenization,
    WrongIdsError,
    make_shard,
)

logger = logging.getLogger(__name__)

_PARALLEL_FROM_BYTES = 16_000_000
"""Of rows to render; below this, starting processes costs more than it saves."""
_ROWS_DIRECTORY = "rows"


@dataclass(frozen=True)
class BuildReport:
    """What was done to have the store."""

    store: TokenStore
    seconds: float
    rows_tokenised: int
    """The other rows were known."""
    encoder: EncoderName | None
    """None: nothing had to be encoded."""

    def lines(self) -> list[str]:
        """For people: what is in the store, and what every cutoff policy would lose."""
        counts, store = self.store.counts, self.store
        return [
            f"{counts.examples:,} examples from {counts.rows:,} rows ({counts.rows_rejected:,} "
            f"rejected), {counts.tokens:,} tokens, {counts.trained_tokens:,} of them trained; "
            f"{self.rows_tokenised:,} rows tokenised in {self.seconds:.1f} s; "
            f"{store.size_bytes:,} bytes -> {store.directory}",
            *self.cutoff_lines(),
        ]

    def cutoff_lines(self) -> list[str]:
        """What every policy would lose; nothing where all examples fit into cutoff_len."""
        chosen = self.store.parameters["cutoff_policy"]
        cutoff_len = self.store.parameters["cutoff_len"]
        if self.store.counts.longest <= cutoff_len:
            return []
        return [
            f"cutoff_len {cutoff_len:,}, {name}{' (chosen)' if name == chosen else ''}: "
            f"{policy.trained_tokens_lost:,} trained tokens, {policy.turns_lost:,} turns and "
            f"{policy.rows_lost:,} rows lost"
            for name, policy in self.store.cutoff.items()
            if name != "error"
        ]

    def to_record(self) -> dict[str, Any]:
        counts = self.store.counts
        return {
            "directory": str(self.store.directory),
            "key": self.store.fingerprint,
            **asdict(counts),
            "rows_tokenised": self.rows_tokenised,
            "seconds": round(self.seconds, 3),
            "bytes": self.store.size_bytes,
            "bytes_per_token": round(self.store.size_bytes / self.store.stored_tokens, 4),
            "encoder": self.encoder,
            "cutoff": {name: asdict(tally) for name, tally in self.store.cutoff.items()},
        }


def open_or_build(args: TrainArgs, progress: Progress, *, verify: bool = False) -> BuildReport:
    """The store of a run, made now unless it is there and whole.

    What else lies in `tokenized_path` is brought up to date; `overwrite_cache` tokenises every
    row, whatever is known; `verify` reads files again that have not changed since they were read.

    Raises:
        DataError: nothing can be trained on (names the first reason), a row is no JSON, the data
            changed meanwhile, or an example exceeds cutoff_len under cutoff_policy error.
        TrainError: the disk does not hold what was written to it.
    """
    asked_at, started = time.time(), time.monotonic()
    spec = StoreSpec.of(args, verify=verify)
    key = spec.key()
    target = store_directory(args, key)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f"{target.name}.lock")):
        found = _finished(target, key, spec.files)
        # Whoever waited for another build that was asked to rebuild takes the fresh store.
        is_fresh = found is not None and (target / STORE_FILE).stat().st_mtime >= asked_at
        if found and (is_fresh or not args.overwrite_cache):
            spec.files.save()
            return BuildReport(found, time.monotonic() - started, 0, None)
        num_workers = args.preprocessing_num_workers or usable_cores()
        build = _Build(spec, key, target, num_workers, args.overwrite_cache, progress)
        rows_tokenised = build.run()
        store = TokenStore(target)
        damaged = store.damage(spec.files)
        if damaged:
            raise TrainError(f"{target / damaged}: not what was written just now; check the disk")
        spec.files.save()
    seconds = time.monotonic() - started
    logger.info(
        "tokenised %s of %s rows in %.1f s -> %s",
        f"{rows_tokenised:,}",
        f"{store.counts.rows:,}",
        seconds,
        target,
    )
    return BuildReport(store, seconds, rows_tokenised, build.encoder)


def _finished(target: Path, key: str, files: ReadFiles) -> TokenStore | None:
    if not (target / STORE_FILE).is_file():
        return None
    store = TokenStore(target)
    if store.fingerprint != key:
        return None
    damaged = store.damage(files)
    if damaged:
        logger.warning("%s: damaged; what it held is tokenised again", target / damaged)
        return None
    return store


class _Build:
    """One build on its way. The lock of the target is held."""

    def __init__(
        self,
        spec: StoreSpec,
        key: str,
        target: Path,
        num_workers: int,
        rebuild: bool,
        progress: Progress,
    ) -> None:
        self._spec = spec
        self._key = key
        self._target = target
        self._num_workers = num_workers
        self._rebuild = rebuild
        self._progress = progress
        self.encoder: EncoderName | None = None

    def run(self) -> int:
        """Returns: how many rows were tokenised."""
        self._prepare_directory()
        chunks = self._plan()
        distinct = {self._file(chunk).name: chunk for chunk in chunks}
        missing = [chunk for name, chunk in distinct.items() if not self._is_there(name)]
        rows_tokenised = self._make(missing) if missing else 0
        self._finish(chunks, list(distinct))
        return rows_tokenised

    def _prepare_directory(self) -> None:
        self._target.mkdir(parents=True, exist_ok=True)
        for left_by_a_kill in self._target.glob(".*.tmp"):
            left_by_a_kill.unlink()
        if self._rebuild:
            for shard in self._target.glob("*.shard"):
                shard.unlink()

    def _plan(self) -> list[Chunk]:
        """The chunks of all datasets, in order."""
        chunks = [
            chunk
            for number, (dataset, rendering) in enumerate(
                zip(self._spec.datasets, self._spec.renderings(), strict=True)
            )
            for chunk in plan_chunks(
                number,
                dataset.local_file(self._target / _ROWS_DIRECTORY),
                rendering,
                self._spec.max_samples,
            )
        ]
        if self._spec.key() != self._key:
            names = ", ".join(str(dataset.file or dataset.name) for dataset in self._spec.datasets)
            raise DataError(f"{names}: changed while it was being read; start again")
        return chunks

    def _file(self, chunk: Chunk) -> Path:
        return self._target / f"{chunk.key()}.shard"

    def _is_there(self, name: str) -> bool:
        """Whether the shard exists, here or, after linking it, from beside."""
        file = self._target / name
        if file.is_file():
            if self._spec.files.is_intact(file, is_intact):
                return True
            logger.warning("%s: damaged; its rows are tokenised again", file)
            file.unlink()
        if self._rebuild:
            return False
        for other in self._target.parent.glob(f"*/{name}"):
            if is_intact(other):
                _link(other, file)
                return True
        return False

    def _make(self, chunks: list[Chunk]) -> int:
        known = KnownRows([] if self._rebuild else self._target.parent.glob("*/*.shard"))
        works = [ShardWork(chunk, self._file(chunk), known.of(chunk)) for chunk in chunks]
        try:
            return self._run(works)
        except WrongIdsError as row:
            logger.warning(
                "%s gives other ids than the tokenizer of %s itself; everything is tokenised again "
                "without it, slowly",
                row,
                self._spec.tokenizer.model_name_or_path,
            )
            for work in works:
                work.target.unlink(missing_ok=True)
            return self._run(works, is_plain=True)

    def _run(self, works: list[ShardWork], *, is_plain: bool = False) -> int:
        make = functools.partial(
            make_shard,
            common=Tokenization(
                self._spec.datasets,
                self._spec.renderings(),
                self._spec.tokenizer,
                self._spec.tokenizer_fingerprint,
                is_plain,
            ),
        )
        total = sum(len(work.chunk) for work in works)
        done = rows_tokenised = 0
        self._progress.update(0, total)
        is_large = sum(map(_unknown_bytes, works)) >= _PARALLEL_FROM_BYTES
        num_workers = self._num_workers if is_large else 1
        with map_in_order(make, works, num_workers, _describe, apart=is_large) as results:
            for work, made in zip(works, results, strict=True):
                done += len(work.chunk)
                rows_tokenised += made.rows_rendered
                self.encoder = made.encoder
                self._progress.update(done, total)
        return rows_tokenised

    def _finish(self, chunks: list[Chunk], names: list[str]) -> None:
        """Write the tables and then `store.json`, which makes the store exist."""
        numbers = {name: number for number, name in enumerate(names)}
        tally = Tally(
            self._spec.cutoff_len,
            self._spec.cutoff_policy,
            holds_pairs=self._spec.tokenizer.rendering.holds_pairs,
        )
        parts = [np.empty(0, dtype=DOCUMENT)]
        stored_tokens: dict[str, int] = {}
        with atomic_open(self._target / REJECTED_FILE) as rejected:
            for chunk in chunks:
                file = self._file(chunk)
                shard = Shard(file)
                name = self._spec.datasets[chunk.dataset].name
                for row, message in shard.errors.items():
                    record = {"dataset": name, "row": chunk.first_row + row, "message": message}
                    rejected.write(json.dumps(record).encode() + b"\n")
                whole = whole_documents(shard, numbers[file.name], chunk.dataset, chunk.first_row)
                parts.append(tally.add(shard, whole, name, chunk.first_row))
                stored_tokens[file.name] = shard.num_stored_tokens
        tally.check()
        (self._target / STORE_FILE).unlink(missing_ok=True)  # of other tables
        with atomic_open(self._target / DOCUMENTS_FILE) as file:
            np.save(file, np.concatenate(parts))
        shards = [
            {
                "file": name,
                "tokens": stored_tokens[name],
                "size_bytes": (self._target / name).stat().st_size,
            }
            for name in names
        ]
        write_json(
            self._target / STORE_FILE,
            {
                "key": self._key,
                "parameters": self._spec.parameters(),
                "pad_token_id": Shard(self._target / names[0]).pad_token_id,
                "counts": asdict(tally.counts()),
                "cutoff": {name: asdict(policy) for name, policy in tally.policies.items()},
                "documents_crc32": zlib.crc32((self._target / DOCUMENTS_FILE).read_bytes()),
                "shards": shards,
            },
        )
        for shard in self._target.glob("*.shard"):
            if shard.name not in numbers:
                shard.unlink()
        shutil.rmtree(self._target / _ROWS_DIRECTORY, ignore_errors=True)


def _unknown_bytes(work: ShardWork) -> int:
    sizes = enumerate(work.chunk.sizes)
    return sum(size for number, size in sizes if number not in work.known)


def _describe(work: ShardWork) -> str:
    return work.chunk.describe()


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        with source.open("rb") as file, atomic_open(target) as copy:
            shutil.copyfileobj(file, copy)
