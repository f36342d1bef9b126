"""Files that are either whole or absent: write beside the target, flush, fsync, rename.

A file that is replaced keeps its mode and owner, and a symlink keeps pointing at its target, so
that colleagues on a shared machine do not lose access.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def atomic_open(path: Path) -> Iterator[IO[bytes]]:
    """Open `path` for writing; the file appears under its name only if the block succeeds.

    Raises: OSError: the disk is full, the directory is not writable, or `path` is a directory or a
        device; nothing is left behind.
    """
    target = path.resolve() if path.is_symlink() else path
    if target.exists() and not target.is_file():
        # The rename would put a file in place of a device such as /dev/null, for everybody.
        code = errno.EISDIR if target.is_dir() else errno.EINVAL
        what = os.strerror(code) if target.is_dir() else "Not a regular file"
        raise OSError(code, what, str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    # Hidden and unique: two writers never share it, and no reader globs it by suffix.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _keep_mode_and_owner(target, temporary)
        temporary.replace(target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(target)  # writing to a full disk does not say which file it was
        raise
    sync_directory(target.parent)


def remove_temporaries(path: Path) -> None:
    """Remove what writers of `path` left beside it when they were killed.

    For callers that hold a lock: a writer at work would lose its file.
    """
    target = path.resolve() if path.is_symlink() else path
    temporary = re.compile(rf"\.{re.escape(target.name)}\.\d+\.[0-9a-f]{{8}}\.tmp")
    for left in target.parent.glob(".*.tmp"):
        if temporary.fullmatch(left.name):
            left.unlink(missing_ok=True)


def _keep_mode_and_owner(existing: Path, replacement: Path) -> None:
    try:
        status = existing.stat()
    except FileNotFoundError:
        return
    replacement.chmod(stat.S_IMODE(status.st_mode))
    with contextlib.suppress(PermissionError):  # only root may give a file away
        os.chown(replacement, status.st_uid, status.st_gid)


def sync_directory(directory: Path) -> None:
    """Make a rename inside `directory` survive a power cut."""
    sync_file(directory)


def sync_file(path: Path) -> None:
    """Make what was written to `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` atomically."""
    with atomic_open(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Replace `path` atomically, UTF-8, newlines as given."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Replace `path` atomically with `value` as JSON."""
    write_bytes(path, to_json(value, indent=indent))


def to_json(value: Any, *, indent: int | None = 2) -> bytes:
    """JSON in UTF-8, non-ASCII unescaped, final newline."""
    return (json.dumps(value, ensure_ascii=False, indent=indent) + "\n").encode("utf-8")


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in 1 MiB pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
