"""What becomes of an example that is longer than `cutoff_len` tokens.

A policy turns an example into pieces: token ranges of it, each with the position from which on its
loss spans count. Nothing is ever cut inside a trained turn, but for a turn that alone is longer
than a window.

    error           no pieces; the build of the store ends
    drop            no pieces
    truncate_turns  the turns that fit, whole turns only, from the start
    window          overlapping windows: every trained token counts in exactly one of them, and
                    what a window repeats of the one before is context without loss
    split_at_compaction  as truncate_turns; before it, conversations that hold several windows of
                    an agent's context were split into these (compaction.py)
    blocks          of text without turns (stage pt): one piece behind the other, each of which
                    begins with the last token of the one before, so that every token is predicted
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.trainer.data.example import Example, Span

CutoffPolicy = Literal["error", "drop", "truncate_turns", "window", "split_at_compaction"]
"""What a user chooses from for conversations."""
DocumentPolicy = CutoffPolicy | Literal["blocks"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens [start, end) of an example; loss counts from `trained_from` on."""

    start: int
    end: int
    trained_from: int


TokenSpan = tuple[int, int]
"""[start, end) of one trained turn, in tokens of its example."""


def cut(
    policy: DocumentPolicy, length: int, spans: Sequence[TokenSpan], cutoff_len: int
) -> list[Piece]:
    """The pieces that are trained, at most `cutoff_len` tokens each, every one with loss."""
    if length <= cutoff_len:
        return [Piece(0, length, 0)]
    return _POLICIES[policy](spans, cutoff_len)


def cut_example(example: Example, policy: DocumentPolicy, cutoff_len: int) -> list[Example]:
    """The examples that are trained instead of one."""
    return [
        _part(example, piece) for piece in cut(policy, len(example.ids), example.turns, cutoff_len)
    ]


def _part(example: Example, piece: Piece) -> Example:
    spans = [
        Span(max(span.start, piece.trained_from) - piece.start, end - piece.start, span.weight)
        for span in example.spans
        if (end := min(span.end, piece.end)) > max(span.start, piece.trained_from)
    ]
    return Example(example.ids[piece.start : piece.end], spans)


def _nothing(spans: Sequence[TokenSpan], cutoff_len: int) -> list[Piece]:
    return []


def _truncate(spans: Sequence[TokenSpan], cutoff_len: int) -> list[Piece]:
    end = max((end for _, end in spans if end <= cutoff_len), default=0)
    return [Piece(0, end, 0)] if end else []


def _windows(spans: Sequence[TokenSpan], cutoff_len: int) -> list[Piece]:
    pieces: list[Piece] = []
    starts = [0, *(end for _, end in spans)]  # where a conversation may begin: behind a turn
    trained_to = 0
    while trained_to < spans[-1][1]:
        first, last = next(span for span in spans if span[1] > trained_to)
        first = max(first, trained_to)
        start = _window_start(starts, first, last, cutoff_len)
        end = max((end for _, end in spans if first < end <= start + cutoff_len), default=0)
        end = end or min(last, start + cutoff_len)  # a turn that no window holds
        pieces.append(Piece(start, end, first))
        trained_to = end
    return pieces


def _window_start(starts: list[int], first: int, last: int, cutoff_len: int) -> int:
    """At most half of a window repeats; it begins behind a turn if one ends where that fits.

    Some token comes before the first trained one, or nothing would predict that one.
    """
    if last <= cutoff_len:
        return 0
    room = cutoff_len - (last - first)
    repeated = min(cutoff_len // 2, room) if room > 0 else cutoff_len // 2
    earliest = max(0, first - repeated)
    return next((start for start in starts if earliest <= start < first), earliest)


def _blocks(spans: Sequence[TokenSpan], cutoff_len: int) -> list[Piece]:
    if cutoff_len < 2:
        return []  # nothing would predict anything
    first, last = spans[0][0], spans[-1][1]
    starts = range(first - 1, last - 1, cutoff_len - 1)
    return [Piece(start, min(start + cutoff_len, last), start + 1) for start in starts]


_POLICIES: dict[DocumentPolicy, Callable[[Sequence[TokenSpan], int], list[Piece]]] = {
    "error": _nothing,
    "drop": _nothing,
    "truncate_turns": _truncate,
    "window": _windows,
    "split_at_compaction": _truncate,
    "blocks": _blocks,
}
