"""Iterations of a template's loops that ran before, for one conversation.

    run over [a, b, c]  ->  texts ["A", "B", "C"], and the namespaces after each
    run over [a, b, d]  ->  "A" and "B" are known; the body runs for d alone

Which inputs decide an iteration, template_loops.py says. Scalars are compared by type and value,
namespaces attribute by attribute, and everything else by identity: the sandbox lets a template
change nothing but its namespaces, and whoever renders gives the same message as the same object.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import is_
from typing import Any

from jinja2.runtime import LoopContext, Undefined
from jinja2.utils import Namespace

from pipeline.trainer.data.template_loops import LoopReads
from pipeline.trainer.data.template_scans import Scan

_KEPT_RUNS = 4
"""Of each loop. Several are of use where the template asks whether a reply is requested."""
_SCALARS = frozenset({str, int, bool, float, type(None)})


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
        """What loop `number` goes over; called by the template (`template_loops.RESUME`)."""
        reads = self._memo.loops[number]
        names = dict(zip(reads.names, values, strict=False))
        lists = dict(zip(reads.lists, values[len(names) :], strict=True))
        if type(items) is not list or any(type(value) is not list for value in lists.values()):
            return items
        if reads.scan is None:
            return ResumedLoop(reads, items, lists, names, self._memo.runs[number], self.shown)
        spaces = {name: value for name, value in names.items() if isinstance(value, Namespace)}
        if not _is_known(reads.scan, spaces):
            return items
        key = tuple(_token(value) for name, value in names.items() if name not in spaces)
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
        self._key = tuple(map(_token, names.values()))
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
        shown, earlier = self._shown, self._longest_known()
        old, start, end = earlier or (self, 0, 0)
        while (done := len(self._texts)) < len(self.items):
            if done == start < end and (not done or self._is_as_after(old, done - 1)):
                self._texts += old._texts[start:end]
                self._states += old._states[start:end]
                shown += old._texts[start:end]
                for space, state in zip(self._spaces, old._states[end - 1], strict=True):
                    _set_attributes(space, state)
                deque(islice(source, end - start), maxlen=0)
                continue
            first = len(shown)
            yield next(source)
            shown[first:] = ["".join(shown[first:])]
            self._texts.append(shown[first])
            self._states.append([dict(_attributes(space)) for space in self._spaces])
        self._keep(old, end)

    def _longest_known(self) -> "tuple[ResumedLoop, int, int] | None":
        """The earlier run that shares most with this one, and the iterations [start, end)."""
        spans = [(old, *self._shared(old)) for old in self._earlier if old._key == self._key]
        return max(spans, key=lambda span: span[2] - span[1], default=None)

    def _shared(self, old: "ResumedLoop") -> tuple[int, int]:
        start, end = 0, _common(old.items, self.items)
        if self._reads.sees_next and not _are_same(old.items, self.items, end):
            end -= 1
        for name, distance in self._reads.offsets:
            start = max(start, -distance)  # before that, an index counts from the list's end
            shared = _common(old._lists[name], self._lists[name])
            if not _are_same(old._lists[name], self._lists[name], shared):
                end = min(end, shared - distance)
        for name, place in self._reads.constants:
            shared = _common(old._lists[name], self._lists[name])
            if place >= shared and not _are_same(old._lists[name], self._lists[name], shared):
                end = 0
        return start, max(start, end)

    def _is_as_after(self, old: "ResumedLoop", iteration: int) -> bool:
        return all(
            _tokens(_attributes(space)) == _tokens(state)
            for space, state in zip(self._spaces, old._states[iteration], strict=True)
        )

    def _keep(self, old: "ResumedLoop", known: int) -> None:
        """Let later runs use this one, in place of `old` if it says all that `old` does."""
        is_new = known < len(self.items) - 1 or len(old.items) <= len(self.items)
        if is_new:
            is_in_this = len(old.items) - 1 <= known
            rest = [run for run in self._earlier if not (run is old and is_in_this)]
            self._earlier[:] = [self, *rest][:_KEPT_RUNS]


class FoundByScan:
    """What a scan finds in a list from each of its items back to the first."""

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._found: dict[tuple[int, Any], dict[tuple[str, str], Any]] = {}

    def begin(self, items: list[Any]) -> None:
        shared = _common(self._items, items)
        if shared < len(items):
            self._found = {key: found for key, found in self._found.items() if key[0] < shared}
            self._items = items

    def get(self, place: int, state: Any) -> dict[tuple[str, str], Any] | None:
        return self._found.get((place, state))

    def set(self, place: int, state: Any, found: dict[tuple[str, str], Any]) -> None:
        self._found[place, state] = found


class ResumedScan:
    """Goes over the items of a list from the last one on, until it is known what will be found."""

    def __init__(
        self,
        scan: Scan,
        items: list[Any],
        in_order: list[Any],
        spaces: dict[str, Namespace],
        known: FoundByScan,
    ) -> None:
        self.items = items
        self._in_order = in_order
        self._spaces = spaces
        self._known = known
        self._read = sorted(scan.read)
        self._blind = sorted(scan.written - scan.read)
        """Attributes that are written and not read."""
        self._kept = sorted(scan.written & scan.read)

    def __iter__(self) -> Iterator[Any]:
        return self.steps(iter(self.items))

    def steps(self, source: Iterator[Any]) -> Iterator[Any]:
        """`source`: the items from the last one on, alone or with their place in the loop."""
        self._known.begin(self._in_order)
        before = {name: self._get(name) for name in self._blind}
        trail: list[tuple[int, Any, dict[tuple[str, str], Any]]] = []
        found = None
        for place in range(len(self.items) - 1, -1, -1):
            state = tuple(_token(self._get(name)) for name in self._read)
            found = self._known.get(place, state)
            if found is not None:
                break
            for space, attribute in self._blind:
                self._spaces[space][attribute] = _UNWRITTEN
            yield next(source)
            values = {name: self._get(name) for name in self._blind}
            written = {name: value for name, value in values.items() if value is not _UNWRITTEN}
            trail.append((place, state, written))
        if found is None:
            found = {name: self._get(name) for name in self._kept}
        for place, state, written in reversed(trail):
            found = {**written, **found}
            self._known.set(place, state, found)
        for (space, attribute), value in {**before, **found}.items():
            self._spaces[space][attribute] = value

    def _get(self, name: tuple[str, str]) -> Any:
        return _attributes(self._spaces[name[0]])[name[1]]


_UNWRITTEN = object()


def _is_known(scan: Scan, spaces: dict[str, Namespace]) -> bool:
    """Whether the names of a scan are what they seem: different namespaces with the attributes."""
    are_different = len(set(map(id, spaces.values()))) == len(spaces)
    return (
        are_different
        and not spaces.keys() & scan.whole
        and all(
            name in spaces and attribute in _attributes(spaces[name])
            for name, attribute in scan.read | scan.written
        )
    )


def _common(one: list[Any], other: list[Any]) -> int:
    """How many items both lists begin with."""
    same = list(map(is_, one, other))
    return len(same) if all(same) else same.index(False)


def _are_same(one: list[Any], other: list[Any], common: int) -> bool:
    return len(one) == len(other) == common


def _attributes(space: Namespace) -> dict[str, Any]:
    return space._Namespace__attrs  # pyright: ignore  # Jinja gives no other way to list them


def _set_attributes(space: Namespace, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        space[name] = value


class _Same:
    """Equal to itself alone."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._value is self._value

    def __hash__(self) -> int:
        return id(self._value)


def _token(value: Any) -> Any:
    """Equal for values that a template cannot tell apart."""
    if isinstance(value, Namespace):
        return _tokens(_attributes(value))
    return _plain_token(value)


def _tokens(attributes: dict[str, Any]) -> Iterable[Any]:
    return tuple((name, _plain_token(value)) for name, value in attributes.items())


def _plain_token(value: Any) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return kind, value
    return kind if isinstance(value, Undefined) else _Same(value)
