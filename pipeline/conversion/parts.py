"""Converted trials on disk, so that a conversion continues where it was killed and converts only
what is new.

<dir>/<key> holds one trial: its rows, IM record and example in turn; a `Part` as JSON, which says
where each begins; and 160 bytes `sft-part 1 <sha256 of what is above> <size of the JSON>`, filled
with blanks. The key is a hash of everything that the content depends on, so a part is never out of
date: it is there, or under another key. One conversion at a time works in a directory; it removes
what it did not use.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import filelock
import msgspec

from pipeline.conversion.trial import ConvertedRow, ConvertedTrial
from pipeline.progress import Progress
from pipeline.rejects import Reject

_MAGIC = b"sft-part 1 "
_TRAILER_SIZE = 160
_BLOCK = 1 << 20
_LOCK = ".lock"


class PartRow(msgspec.Struct):
    """One conversation."""

    chain: str
    im_size: int
    lf_size: int
    facts: dict[str, Any]
    exact_key: bytes
    prompt_key: bytes
    signature: bytes


class Part(msgspec.Struct):
    """Everything about one converted trial but its bytes. Fields as in ConvertedTrial."""

    key: str
    trial: str
    scaffold: str
    source_file: str
    hashes: dict[str, str]
    rejects: list[Reject]
    counts: dict[str, int]
    secrets: dict[str, int]
    rows: list[PartRow]


_DECODER = msgspec.json.Decoder(Part)


def key_of(*content: Any) -> str:
    """The key of a part that depends on `content` (plain data)."""
    # ASCII: names of files need not be valid Unicode.
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:40]


class PartStore:
    """The parts in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @contextlib.contextmanager
    def locked(self, progress: Progress | None = None) -> Iterator[None]:
        """Keep other conversions out. Waits for one that is under way; a dead one does not block.

        Raises: OSError: the directory cannot be written to.
        """
        lock = filelock.FileLock(self.directory / _LOCK)
        try:
            self._acquire(lock, timeout=0)
        except filelock.Timeout:
            if progress:
                progress.note(f"waiting for another conversion that uses {self.directory}")
            self._acquire(lock, timeout=-1)
        try:
            yield
        finally:
            lock.release()

    def _acquire(self, lock: filelock.BaseFileLock, timeout: float) -> None:
        while not lock.is_locked:
            self.directory.mkdir(parents=True, exist_ok=True)
            # Whoever held the lock may have removed the directory.
            with contextlib.suppress(FileNotFoundError):
                lock.acquire(timeout=timeout)

    def find(self, key: str) -> Part | None:
        """The part if it is there and whole."""
        path = self.directory / key
        try:
            with path.open("rb") as file:
                return _read_part(file, path.stat().st_size)
        except FileNotFoundError:
            return None

    def write(
        self, key: str, convert: Callable[[Callable[[ConvertedRow], None]], ConvertedTrial]
    ) -> Part:
        """Write a part, whole or not at all. Memory is one row, and what a part keeps of each.

        Not synced to the disk one by one: what a power cut leaves is told by its hash.

        Args:
            convert: makes the rows, gives each to its argument, and returns the rest.
        Raises: OSError: the disk is full.
        """
        path = self.directory / key
        temporary = path.with_name(f".{key}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                part = _write_part(file, key, convert)
            temporary.replace(path)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                error.filename = error.filename or str(path)
            raise
        return part

    def rows(self, part: Part) -> Iterator[tuple[bytes, bytes]]:
        """(IM record, example) of each row. Raises: OSError."""
        with (self.directory / part.key).open("rb") as file:
            for row in part.rows:
                yield file.read(row.im_size), file.read(row.lf_size)

    def read(self, part: Part, start: int, size: int) -> bytes:
        """Some bytes of its rows. Raises: OSError."""
        with (self.directory / part.key).open("rb") as file:
            file.seek(start)
            return file.read(size)

    def keep_only(self, keys: Iterable[str]) -> None:
        """Remove all other parts, and what a killed conversion left."""
        kept = {*keys, _LOCK}
        for path in self.directory.iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the directory, unless somebody put something else there."""
        self.keep_only(())
        (self.directory / _LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.directory.rmdir()


def _write_part(
    file: IO[bytes], key: str, convert: Callable[[Callable[[ConvertedRow], None]], ConvertedTrial]
) -> Part:
    digest = hashlib.sha256()
    rows: list[PartRow] = []

    def write(data: bytes) -> None:
        digest.update(data)
        file.write(data)

    def take(row: ConvertedRow) -> None:
        write(row.im_line)
        write(row.lf_row)
        rows.append(
            PartRow(
                chain=row.chain,
                im_size=len(row.im_line),
                lf_size=len(row.lf_row),
                facts=row.facts,
                exact_key=row.exact_key,
                prompt_key=row.prompt_key,
                signature=row.signature,
            )
        )

    converted = convert(take)
    part = Part(
        key=key,
        trial=converted.trial,
        scaffold=converted.scaffold,
        source_file=converted.source_file,
        hashes=converted.hashes,
        rejects=converted.rejects,
        counts=dict(converted.counts),
        secrets=dict(converted.secrets),
        rows=rows,
    )
    index = msgspec.json.encode(part)
    write(index)
    trailer = b"%s%s %d" % (_MAGIC, digest.hexdigest().encode(), len(index))
    file.write(trailer.ljust(_TRAILER_SIZE))
    return part


def _read_part(file: IO[bytes], size: int) -> Part | None:
    if size < _TRAILER_SIZE:
        return None
    file.seek(size - _TRAILER_SIZE)
    fields = file.read().split()
    if len(fields) != 4 or b" ".join(fields[:2]) + b" " != _MAGIC:
        return None
    file.seek(0)
    digest, left, index_size = hashlib.sha256(), size - _TRAILER_SIZE, int(fields[3])
    while left > 0:
        data = file.read(min(_BLOCK, left))
        digest.update(data)
        left -= len(data)
    if digest.hexdigest().encode() != fields[2]:
        return None
    file.seek(size - _TRAILER_SIZE - index_size)
    return _DECODER.decode(file.read(index_size))
