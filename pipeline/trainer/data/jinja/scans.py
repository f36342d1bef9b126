"""Loops of a chat template that look for something from the last message back to the first.

    {% for message in messages[::-1] %}
      {% if not ns.found and message.role == 'user' %}
        {% set ns.found = true %}{% set ns.query = messages | length - 1 - loop.index0 %}
      {% endif %}
    {% endfor %}

Two requests have no last message in common, but from some message on back to the first they see the
same. What is found there does not depend on what follows, if the loop knows no other position than
that of the message in the list, and nothing that it found later but what it reads of namespaces.
"""

from dataclasses import dataclass
from typing import TypeGuard

from jinja2 import nodes

from pipeline.trainer.data.jinja.syntax import UnknownLoopError, is_loop, refuse_unknown, stored


@dataclass(frozen=True)
class Scan:
    """What a loop from the end of a list to its beginning reads and writes; it shows nothing."""

    whole: frozenset[str]
    """Names that are used otherwise than by their attributes, so that none may be a namespace."""
    read: frozenset[tuple[str, str]]
    """(namespace, attribute)"""
    written: frozenset[tuple[str, str]]


def is_reversed(node: nodes.Node) -> bool:
    """`messages[::-1]`"""
    if not isinstance(node, nodes.Getitem) or not isinstance(node.arg, nodes.Slice):
        return False
    slice_ = node.arg
    is_back = slice_.step in (nodes.Neg(nodes.Const(1)), nodes.Const(-1))
    return is_back and slice_.start is None and slice_.stop is None


def read_scan(loop: nodes.For) -> tuple[str, Scan]:
    """Returns: the name of the list, and what the loop does with the rest of the template.

    Raises: UnknownLoopError: it is no scan.
    """
    items = loop.iter.node if isinstance(loop.iter, nodes.Getitem) else None
    if not isinstance(items, nodes.Name) or items.name in stored(loop):
        raise UnknownLoopError
    targets = stored(loop.target)
    reader = _ScanReader(items.name, targets)
    for node in loop.body:
        reader.visit(node)
    whole = reader.whole | (stored(loop) - targets)
    return items.name, Scan(frozenset(whole), frozenset(reader.read), frozenset(reader.written))


class _ScanReader:
    """Collects what the body of a loop over `items` from its end reads and writes."""

    def __init__(self, items: str, targets: set[str]) -> None:
        self._items = items
        self._targets = targets
        self.whole: set[str] = set()
        self.read: set[tuple[str, str]] = set()
        self.written: set[tuple[str, str]] = set()

    def visit(self, node: nodes.Node) -> None:
        refuse_unknown(node)
        if isinstance(node, nodes.Output | nodes.For | nodes.CallBlock):
            raise UnknownLoopError
        if self._weights(node) == (1, -1):
            return  # where the item stands in the list, counted from its beginning
        if isinstance(node, nodes.NSRef):
            self.written.add((node.name, node.attr))
        elif isinstance(node, nodes.Name):
            if node.name in (self._items, "loop"):
                raise UnknownLoopError
            if node.ctx == "load" and node.name not in self._targets:
                self.whole.add(node.name)
        elif isinstance(node, nodes.Getattr) and self._is_outer(node.node):
            self.read.add((node.node.name, node.attr))
        else:
            for child in node.iter_child_nodes():
                self.visit(child)

    def _is_outer(self, node: nodes.Node) -> TypeGuard[nodes.Name]:
        names = (*self._targets, self._items, "loop")
        return isinstance(node, nodes.Name) and node.name not in names

    def _weights(self, node: nodes.Node) -> tuple[int, int] | None:
        """Of a sum: how often it counts the list's length, and `loop.index0`; None: no sum."""
        if isinstance(node, nodes.Const) and type(node.value) is int:
            return 0, 0
        if isinstance(node, nodes.Filter) and node.name in ("length", "count"):
            is_ours = isinstance(node.node, nodes.Name) and node.node.name == self._items
            return (1, 0) if is_ours else None
        if isinstance(node, nodes.Getattr) and is_loop(node.node):
            return (0, 1) if node.attr in ("index0", "index") else None
        if isinstance(node, nodes.Add | nodes.Sub):
            left, right = self._weights(node.left), self._weights(node.right)
            sign = 1 if isinstance(node, nodes.Add) else -1
            if left and right:
                return left[0] + sign * right[0], left[1] + sign * right[1]
        return None
