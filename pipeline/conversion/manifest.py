"""What a set of outputs was made of, so that a step can tell whether it would make the same again.

    {"options": {...}, "code": sha256, "inputs": {<path>: {"size", "mtime_ns", "sha256"}},
     "outputs": {...the same...}, "counts": {...}}

Paths are relative to the directory they were found in. A file whose size and time of change are
as recorded is taken for unchanged without reading it; otherwise its hash decides. A null hash
stands for a file that was not read: any new time of change counts as a change.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.files import sha256_file, write_json
from pipeline.jsonl import NotJsonError, parse_json


@dataclass(frozen=True, slots=True)
class FileState:
    """One file at the time it was used."""

    size: int
    mtime_ns: int
    sha256: str | None

    @classmethod
    def of(cls, path: Path, sha256: str | None) -> "FileState":
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns, sha256)

    def is_current(self, path: Path) -> bool:
        try:
            status = path.stat()
        except OSError:
            return False
        if (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns):
            return True
        return (
            self.sha256 is not None
            and status.st_size == self.size
            and sha256_file(path) == self.sha256
        )


@dataclass(frozen=True)
class Manifest:
    """The record of one finished step."""

    options: dict[str, Any]
    code: str
    inputs: dict[str, FileState]
    outputs: dict[str, FileState]
    counts: dict[str, int] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Manifest | None":
        """None: there is none, or it is not one of ours."""
        try:
            value = parse_json(path.read_bytes())[0]
            states = {
                key: {name: FileState(**state) for name, state in value[key].items()}
                for key in ("inputs", "outputs")
            }
            return cls(value["options"], value["code"], **states, counts=value["counts"])
        except (OSError, NotJsonError, KeyError, TypeError, AttributeError):
            return None

    def difference(
        self,
        options: Mapping[str, Any],
        code: str,
        inputs: Mapping[str, Path],
        outputs: Mapping[str, Path],
    ) -> str | None:
        """The first thing that is not as recorded, for people; None: everything is."""
        for name, value in options.items():
            if self.options.get(name) != value:
                return f"{name} changed ({self.options.get(name)} -> {value})"
        if self.code != code:
            return "the converting code changed"
        for what, recorded, found in (
            ("input", self.inputs, inputs),
            ("output", self.outputs, outputs),
        ):
            if new := sorted(found.keys() - recorded.keys()):
                return f"new {what} {new[0]}"
            if missing := sorted(recorded.keys() - found.keys()):
                return f"{what} {missing[0]} is gone"
            for name, path in sorted(found.items()):
                if not recorded[name].is_current(path):
                    return f"{what} {name} changed"
        return None


def code_version(sources: Iterable[Path]) -> str:
    """One hash over source files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
