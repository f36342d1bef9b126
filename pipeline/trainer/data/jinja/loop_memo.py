"""Iterations of a template's loops that ran before, for one conversation.

    run over [a, b, c]  ->  texts ["A", "B", "C"], and the namespaces after each
    run over [a, b, d]  ->  "A" and "B" are known; the body runs for d alone

Which inputs decide an iteration, loops.py says; when two values are the same, says
values.py. Whoever renders gives the same message as the same object.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from jinja2.runtime import LoopContext, Undefined
from jinja2.utils import Namespace

from pipeline.trainer.data.jinja.loops import LoopReads
from pipeline.trainer.data.jinja.scan_memo import FoundByScan, ResumedScan, is_known
from pipeline.trainer.data.jinja.values import (
    are_same,
    attributes,
    common,
    set_attributes,
    token,
    tokens,
)

_KEPT_RUNS = 4
"""Of each loop. Several are of use where the template asks whether a reply is requested."""


class LoopMemo:
    """What the renderings of one conversation have in common."""

    def __init__(self, loops: Sequence[LoopReads]) -> None:
        self.loops = loops
        self.runs: list[list[ResumedLoop]] = [[] for _ in loops]
        self.scans: list[dict[Any, FoundByScan]] = [{} for _ in loops]


class Rendering:
    """One run of a template: what it has shown so far, and what it need not run again."""

    def __init__(self, memo: LoopMemo) -> None:
        self._memo = memo
        self.shown: list[str] = []

    def resume(self, items: Any, number: int, *values: Any) -> Any:
        """What loop `number` goes over; called by the template (`loops.RESUME`)."""
        reads = self._memo.loops[number]
        names = dict(zip(reads.names, values, strict=False))
        lists = dict(zip(reads.lists, values[len(names) :], strict=True))
        if type(items) is not list or any(type(value) is not list for value in lists.values()):
            return items
        if reads.scan is None:
            return ResumedLoop(reads, items, lists, names, self._memo.runs[number], self.shown)
        spaces = {name: value for name, value in names.items() if isinstance(value, Namespace)}
        if not is_known(reads.scan, spaces):
            return items
        key = tuple(token(value) for name, value in names.items() if name not in spaces)
        found = self._memo.scans[number].setdefault(key, FoundByScan())
        return ResumedScan(reads.scan, items, lists[reads.lists[0]], spaces, found)


def loop_context(iterable: Any, undefined: type[Undefined], *recursion: Any) -> Any:
    """Stands in the place of Jinja's LoopContext, which gives a loop its variable `loop`."""
    if isinstance(iterable, ResumedLoop | ResumedScan):
        return iterable.steps(LoopContext(iterable.items, undefined))
    return LoopContext(iterable, undefined, *recursion)


class ResumedLoop:
    """Goes over the items of a loop; known iterations are shown at once and left out."""

    def __init__(
        self,
        reads: LoopReads,
        items: list[Any],
        lists: dict[str, list[Any]],
        names: dict[str, Any],
        earlier: "list[ResumedLoop]",
        shown: list[str],
    ) -> None:
        self.items = items
        self._reads = reads
        self._lists = lists
        self._key = tuple(map(token, names.values()))
        self._spaces = [value for value in names.values() if isinstance(value, Namespace)]
        self._earlier = earlier
        self._shown = shown
        self._texts: list[str] = []
        """Of each iteration."""
        self._states: list[list[dict[str, Any]]] = []
        """Attributes of the namespaces after each iteration."""

    def __iter__(self) -> Iterator[Any]:
        return self.steps(iter(self.items))

    def steps(self, source: Iterator[Any]) -> Iterator[Any]:
        """`source`: the items, alone or with their place in the loop."""
        shown, position = self._shown, 0
        old, start, end = self._longest_known() or (self, 0, 0)
        # Otherwise `old` knows all of this but the last item, and goes on behind it.
        is_new = end < len(self.items) - 1 or len(old.items) <= len(self.items)
        while position < len(self.items):
            if position == start < end and (not start or self._is_as_after(old, start - 1)):
                known = slice(start, end)
                shown += old._texts[known]
                for space, state in zip(self._spaces, old._states[end - 1], strict=True):
                    set_attributes(space, state)
                if is_new:
                    self._texts += old._texts[known]
                    self._states += old._states[known]
                deque(islice(source, end - start), maxlen=0)
                position = end
                continue
            first = len(shown)
            yield next(source)
            position += 1
            if is_new:
                shown[first:] = ["".join(shown[first:])]
                self._texts.append(shown[first])
                self._states.append([dict(attributes(space)) for space in self._spaces])
        if is_new:
            is_in_this = len(old.items) - 1 <= end
            rest = [run for run in self._earlier if not (run is old and is_in_this)]
            self._earlier[:] = [self, *rest][:_KEPT_RUNS]

    def _longest_known(self) -> "tuple[ResumedLoop, int, int] | None":
        """The earlier run that shares most with this one, and the iterations [start, end)."""
        spans = [(old, *self._shared(old)) for old in self._earlier if old._key == self._key]
        return max(spans, key=lambda span: span[2] - span[1], default=None)

    def _shared(self, old: "ResumedLoop") -> tuple[int, int]:
        start, end = 0, common(old.items, self.items)
        if self._reads.sees_next and not are_same(old.items, self.items, end):
            end -= 1
        for name, distance in self._reads.offsets:
            start = max(start, -distance)  # before that, an index counts from the list's end
            shared = common(old._lists[name], self._lists[name])
            if not are_same(old._lists[name], self._lists[name], shared):
                end = min(end, shared - distance)
        for name, place in self._reads.constants:
            shared = common(old._lists[name], self._lists[name])
            if place >= shared and not are_same(old._lists[name], self._lists[name], shared):
                end = 0
        return start, max(start, end)

    def _is_as_after(self, old: "ResumedLoop", iteration: int) -> bool:
        return all(
            tokens(attributes(space)) == tokens(state)
            for space, state in zip(self._spaces, old._states[iteration], strict=True)
        )
