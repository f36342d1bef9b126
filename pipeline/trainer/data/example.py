"""One training sequence, and what turning text into one needs of a tokenizer."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from pipeline.errors import DataError


class Tokenizer(Protocol):
    """What rendering needs of a `transformers` tokenizer."""

    chat_template: Any

    @property
    def all_special_tokens(self) -> list[str]: ...
    @property
    def special_tokens_map(self) -> dict[str, Any]: ...
    @property
    def added_tokens_decoder(self) -> dict[int, Any]: ...

    def __call__(self, text: str, **kwargs: Any) -> Any: ...
    def get_vocab(self) -> dict[str, int]: ...
    def get_chat_template(self, chat_template: Any = None, tools: Any = None) -> str: ...
    def apply_chat_template(self, conversation: list[dict[str, Any]], **kwargs: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Span:
    """Token positions [start, end) that carry loss, each with this weight."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True)
class Example:
    """One training sequence. `ids` ends with the last trained token.

    Spans that touch and weigh differently are parts of one turn.
    """

    ids: list[int]
    spans: list[Span]

    @property
    def turns(self) -> list[tuple[int, int]]:
        """[start, end) of each trained turn, in tokens."""
        ends = self.turn_ends
        starts = [next(s.start for s in self.spans if s.start >= end) for end in [0, *ends[:-1]]]
        return list(zip(starts, ends, strict=True))

    @property
    def turn_ends(self) -> list[int]:
        """Where each trained turn ends, in tokens."""
        last = [
            span.end != later.start or span.weight == later.weight
            for span, later in pairwise(self.spans)
        ]
        return [
            span.end for span, is_last in zip(self.spans, [*last, True], strict=True) if is_last
        ]


def special_tokens(tokenizer: Tokenizer) -> re.Pattern[str]:
    """Matches every special token of the tokenizer."""
    added = tokenizer.added_tokens_decoder.values()
    special = {str(token) for token in added if token.special} | {
        str(token) for token in tokenizer.all_special_tokens
    }
    longest_first = sorted(special, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def check_inert(special: re.Pattern[str], fields: Iterable[tuple[str, str]]) -> None:
    """`fields`: (where it stands, text of the data).

    Raises: DataError: a text holds a special token; names the place.
    """
    for where, text in fields:
        found = special.search(text)
        if found:
            raise DataError(
                f"{where}: the text contains {found.group()}, a special token of this "
                "tokenizer; it would be read as structure, not as text"
            )
