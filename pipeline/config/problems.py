"""What is wrong with a config, and how it is told: one line per problem, in the order of the file.

A problem names the path of keys it is about; the position is looked up when the lines are written,
because only then it is known whether the value stands in the file or in an override.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

KeyPath = tuple[str | int, ...]

SECRET_KEY = re.compile(
    r"(^|_)(pwd|passwd|password|passphrase|token|secret|(api|access|secret)_?key)$", re.IGNORECASE
)
"""Names of keys whose value is a secret."""


class Position(NamedTuple):
    """Place in a file, both counted from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, about the key or value at `path`."""

    path: KeyPath
    what: str
    at_key: bool = False
    """The key itself is wrong, not its value."""
    position: Position | None = None
    """Set where the path does not lead to the place, as with the second of two equal keys."""
    suggests: KeyPath | None = None
    """The key that was probably meant: it is not reported as missing too."""


def dotted(path: KeyPath) -> str:
    """(`report_to`, 0) -> `report_to[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def shown(value: object, path: KeyPath) -> str:
    """`value` as it looks in YAML, short, and never a secret."""
    if is_secret(path):
        return "a value that is not shown"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]}...{text[-1]}"


def is_secret(path: KeyPath) -> bool:
    """True for what stands below `credentials` and for keys named like a secret."""
    return "credentials" in path or any(
        isinstance(part, str) and SECRET_KEY.search(part) for part in path
    )


def lines(problems: Iterable[Problem], where: Callable[[Problem], tuple[object, str]]) -> list[str]:
    """One line per problem, sorted by place, each once.

    `where` returns (sort key, text in front of the first colon).
    """
    placed = sorted({(*where(problem), dotted(problem.path), problem.what) for problem in problems})
    return [
        ": ".join(part for part in (place, key, what) if part) for _, place, key, what in placed
    ]
