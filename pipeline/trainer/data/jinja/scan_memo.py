"""What a template's scans found before, for one conversation (scans.py).

    looked through [d, c, b, a]  ->  from c on: {query: 0}; from b on: {query: 0}; ...
    looks through [e, c, b, a]   ->  the body runs for e alone

A finding is kept by the place of the item and by what the scan reads of namespaces there.
"""

from collections.abc import Iterator
from typing import Any

from jinja2.utils import Namespace

from pipeline.trainer.data.jinja.scans import Scan
from pipeline.trainer.data.jinja.values import attributes, common, token

_UNWRITTEN = object()


def is_known(scan: Scan, spaces: dict[str, Namespace]) -> bool:
    """Whether the names of a scan are what they seem: different namespaces with the attributes."""
    are_different = len(set(map(id, spaces.values()))) == len(spaces)
    return (
        are_different
        and not spaces.keys() & scan.whole
        and all(
            name in spaces and attribute in attributes(spaces[name])
            for name, attribute in scan.read | scan.written
        )
    )


class FoundByScan:
    """What a scan finds in a list from each of its items back to the first."""

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._found: dict[tuple[int, Any], dict[tuple[str, str], Any]] = {}

    def begin(self, items: list[Any]) -> None:
        """These are gone over next; what other items led to is forgotten."""
        shared = common(self._items, items)
        if shared < min(len(self._items), len(items)):
            self._found = {key: found for key, found in self._found.items() if key[0] < shared}
        if shared < len(items):
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
            state = tuple(token(self._get(name)) for name in self._read)
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
        return attributes(self._spaces[name[0]])[name[1]]
