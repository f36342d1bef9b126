r"""Text as a secret may be spread over it, and the way back to where it stands.

    "ghp_ab\ncd"  escaped   -> a line break       -> joined   ghp_abcd
    "a\/b"        escaped   -> a/b

A `View` is a text with pieces of its source decoded or left out. It maps a span back to the span
of the source that stands for it, whole escape sequences included, so that replacing that span
leaves the rest, such as the JSON around it, as it was.
"""

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

# Escaped once or several times, as in JSON inside of JSON. A backslash before a line break is the
# shell's continuation; one before anything else is kept.
_ESCAPE = re.compile(
    r"""(?<!\\)\\++(?:(?P<space>[nrt])|u00(?P<code>[2-7][0-9A-Fa-f])|\r?(?P<bare>[\n"'/]))""",
    re.VERBOSE,
)
_SPACES = {"n": "\n", "r": "\r", "t": "\t"}
_INDENTED_LINE = re.compile(r"^[ \t]+[\w+/=.-]{12,}[\"']?$", re.MULTILINE | re.ASCII)
_BREAK = re.compile(r"[\r\n]+")
_INDENTED_BREAK = re.compile(r"[\r\n]+[ \t]*")


@dataclass(frozen=True, slots=True)
class View:
    """A text made of pieces of a source text."""

    text: str
    _starts: list[int]
    """Where each piece begins in `text`, ascending, from 0."""
    _origins: list[int]
    """Where it begins in the source."""
    _widths: list[int]
    """1: the piece is a copy; else it is one character and stands for so many of the source."""

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The span of the source behind `text[start:end]`, which is not empty."""
        return self._source(start)[0], self._source(end - 1)[1]

    def _source(self, position: int) -> tuple[int, int]:
        piece = bisect_right(self._starts, position) - 1
        start = self._origins[piece] + position - self._starts[piece]
        return start, start + self._widths[piece]

    def is_seam(self, position: int) -> bool:
        """Whether something was left out or decoded right before `text[position]`."""
        piece = bisect_left(self._starts, position)
        return piece < len(self._starts) and self._starts[piece] == position

    def seams(self, start: int, end: int) -> list[int]:
        """The seams inside `text[start:end]`."""
        return self._starts[bisect_right(self._starts, start) : bisect_left(self._starts, end)]


def decode_escapes(text: str) -> View:
    """`text` with JSON's and the shell's escapes decoded, as far as secrets can hold them."""
    if "\\" not in text:
        return View(text, [0], [0], [1])
    parts: list[str] = []
    starts, origins, widths = [], [], []
    length = done = 0
    for match in _ESCAPE.finditer(text):
        begin, end = match.span()
        if begin > done or not starts:
            starts.append(length)
            origins.append(done)
            widths.append(1)
            parts.append(text[done:begin])
            length += begin - done
        kind = match.lastgroup
        value = match[kind] if kind else ""
        decoded = chr(int(value, 16)) if kind == "code" else _SPACES.get(value, value)
        starts.append(length)
        origins.append(begin)
        widths.append(end - begin)
        parts.append(decoded)
        length += 1
        done = end
    starts.append(length)
    origins.append(done)
    widths.append(1)
    parts.append(text[done:])
    return View("".join(parts), starts, origins, widths)


def join_lines(text: str) -> str:
    """`text` without its line breaks; without indentation too, if a line holds one long word."""
    if _INDENTED_LINE.search(text):
        return _INDENTED_BREAK.sub("", text)
    return text.replace("\n", "").replace("\r", "")


def joined_view(text: str) -> View:
    """What `join_lines` gives, with the way back. Slow: for texts in which something was found."""
    pattern = _INDENTED_BREAK if _INDENTED_LINE.search(text) else _BREAK
    parts: list[str] = []
    starts, origins = [], []
    length = done = 0
    for begin, end in [*(match.span() for match in pattern.finditer(text)), (len(text), len(text))]:
        if begin > done or not starts:
            starts.append(length)
            origins.append(done)
            parts.append(text[done:begin])
            length += begin - done
        done = end
    return View("".join(parts), starts, origins, [1] * len(starts))
