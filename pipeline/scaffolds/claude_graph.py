"""The events of Claude Code sessions -> the paths through their graph, turn by turn.

Every event names the one before it. Three things keep events from being turns:
- one response is several events, one for each block, with the same message id;
- the results of parallel calls are events of their own, each hanging on the block that called, so
  that the path of the next turn passes through only one of them;
- events that are no turns (attachments, progress, errors) lie between turns.
A path ends at a turn of the agent that no other follows. A compaction starts a new path, as does
the first event of a subagent.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.scaffolds.assembly import list_of, object_of, string_of


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One line of a session."""

    record: dict[str, Any]
    kind: str
    """Its `type`."""
    use: str
    """"turn", "meta", or the count that it goes into."""

    @property
    def uuid(self) -> str:
        return string_of(self.record.get("uuid"))

    @property
    def message_id(self) -> str:
        return string_of(object_of(self.record.get("message")).get("id"))

    @property
    def is_sidechain(self) -> bool:
        return self.record.get("isSidechain") is True

    @property
    def starts_window(self) -> bool:
        """The model saw nothing of what stands before it."""
        is_boundary = self.record.get("subtype") == "compact_boundary"
        return is_boundary or self.record.get("isCompactSummary") is True

    def answers(self) -> set[str]:
        """The calls whose results it holds."""
        blocks = map(object_of, list_of(object_of(self.record.get("message")).get("content")))
        return {str(b.get("tool_use_id")) for b in blocks if b.get("type") == "tool_result"}


@dataclass(slots=True, eq=False)
class Node:
    """One turn: the events of one response, of all results of its calls, or one user text."""

    kind: str
    events: list[Event]
    parent: "Node | None"
    is_orphan: bool = False
    """A root whose first event names one before it that is not there."""
    children: "list[Node]" = field(default_factory=list)
    is_trained: bool = False

    def path(self) -> "list[Node]":
        """The nodes from the root to this one."""
        nodes: list[Node] = []
        node: Node | None = self
        while node is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


@dataclass(slots=True, eq=False)
class _Place:
    """Where the next event continues."""

    node: Node | None
    is_sidechain: bool
    metas: tuple[Event, ...] = ()
    """Texts of the client since that turn, which become one if a turn of the agent follows."""
    is_orphan: bool = False


class Graph:
    """All events of one session."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._places: dict[str, _Place] = {}
        self._messages: dict[str, Any] = {}
        self._roots: list[tuple[Node, str]] = []
        self._order: dict[Node, int] = {}

    def add_file(self, events: Iterable[Event], stem: str) -> None:
        """`stem`: names the subagent whose file it is."""
        listed = list(events)
        has_links = any(event.record.get("parentUuid") for event in listed)
        previous: dict[bool, _Place] = {}
        for event in _parents_first(listed):
            known = self._messages.get(event.uuid) if event.uuid else None
            if known is not None and known == event.record.get("message"):
                self._counts["repeated_events"] += 1  # a resumed session repeats the earlier one
                continue
            before = self._place_before(event, previous.get(event.is_sidechain), has_links)
            place = self._add(event, before, stem)
            previous[event.is_sidechain] = place
            if event.uuid:
                self._places[event.uuid] = place
                self._messages[event.uuid] = event.record.get("message")

    def _place_before(self, event: Event, previous: _Place | None, has_links: bool) -> _Place:
        start = _Place(None, event.is_sidechain)
        if event.starts_window:
            return start
        parent = event.record.get("parentUuid")
        if parent:
            found = self._places.get(str(parent))
            if found is None:
                return _Place(None, event.is_sidechain, is_orphan=True)
            # A subagent begins beside the conversation that called it.
            return start if event.is_sidechain and not found.is_sidechain else found
        # Old clients and exports have no links; and no answer comes first.
        is_linked = has_links and "parentUuid" in event.record
        follows = not is_linked or event.kind == "assistant" or event.answers()
        return previous if previous and follows else start

    def _add(self, event: Event, before: _Place, stem: str) -> _Place:
        if event.use == "meta":
            metas = (*before.metas, event)
            return _Place(before.node, event.is_sidechain, metas, before.is_orphan)
        if event.use != "turn":
            self._counts[event.use] += 1
            return _Place(before.node, event.is_sidechain, before.metas, before.is_orphan)
        node = self._home(event, before.node)
        if node is not None:
            node.events.append(event)
        else:
            parent = before.node
            if event.kind == "assistant" and (parent is None or parent.kind == "assistant"):
                for meta in before.metas:
                    parent = self._new(meta, parent, before.is_orphan, stem)
            elif before.metas:
                self._counts["client_texts"] += len(before.metas)
            node = self._new(event, parent, before.is_orphan, stem)
        self._order[node] = len(self._order)
        return _Place(node, event.is_sidechain)

    def _new(self, event: Event, parent: Node | None, is_orphan: bool, stem: str) -> Node:
        node = Node(event.kind, [event], parent, is_orphan and parent is None)
        if parent is None:
            agent = string_of(event.record.get("agentId"))
            name = f"agent-{agent}" if agent else stem if stem.startswith("agent-") else ""
            self._roots.append((node, name or ("sidechain" if event.is_sidechain else "main")))
        else:
            parent.children.append(node)
        return node

    def _home(self, event: Event, before: Node | None) -> Node | None:
        """The turn that an event is a part of, None if it begins one."""
        if before is None:
            return None
        if event.kind == "assistant":
            # A result may come in before the next block of the response that called for it.
            candidates = [before, *([before.parent] if before.parent else []), *before.children]
            for node in candidates:
                is_same = node.kind == "assistant" and event.message_id
                if is_same and node.events[0].message_id == event.message_id:
                    return node
            return None
        answers = event.answers()
        if not answers:
            return None
        results = before.children if before.kind == "assistant" else [before]
        for node in results:
            known = {identity for other in node.events for identity in other.answers()}
            if node.kind == "user" and known and not known & answers:
                return node
        return None

    def chains(self) -> Iterator[tuple[str, list[Node]]]:
        """(chain id, path) of every last turn of the agent; of each root the newest one first."""
        used: Counter[str] = Counter()
        for root, name in self._roots:
            leaves = sorted(self._leaves(root), key=lambda leaf: -self._order[leaf])
            used[name] += 1
            chain_id = name if used[name] == 1 else f"{name}-{used[name]}"
            if not leaves:
                self._counts["inputs_without_answer"] += 1
            for number, leaf in enumerate(leaves):
                yield f"{chain_id}-branch-{number}" if number else chain_id, leaf.path()

    def _leaves(self, root: Node) -> list[Node]:
        """Turns of the agent that no other turn of the agent follows."""
        preorder: list[Node] = []
        stack = [root]
        while stack:
            node = stack.pop()
            preorder.append(node)
            stack += node.children
        leaves: list[Node] = []
        has_answer: set[Node] = set()
        for node in reversed(preorder):  # children before their parents
            is_followed = any(child in has_answer for child in node.children)
            if node.kind == "assistant" and not is_followed:
                leaves.append(node)
            if node.kind == "assistant" or is_followed:
                has_answer.add(node)
        return leaves


def _parents_first(events: list[Event]) -> Iterator[Event]:
    """File order, but an event whose parent stands later comes after it."""
    known = {event.uuid for event in events if event.uuid}
    done: set[str] = set()
    waiting: dict[str, list[Event]] = {}
    for event in events:
        parent = string_of(event.record.get("parentUuid"))
        if parent in known and parent not in done:
            waiting.setdefault(parent, []).append(event)
            continue
        ready = [event]
        while ready:
            current = ready.pop(0)
            yield current
            done.add(current.uuid)
            ready += waiting.pop(current.uuid, []) if current.uuid else []
    # Only events that name each other in a circle are left.
    for group in waiting.values():
        yield from group
