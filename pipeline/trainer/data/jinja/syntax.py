"""What the loops of a chat template have in common when they are read (loops.py)."""

from typing import TypeGuard

from jinja2 import nodes

_IMPURE = frozenset({"strftime_now", "lipsum", "random", "self", "caller"})
_UNKNOWN = (nodes.Macro, nodes.Block, nodes.Include, nodes.Import, nodes.FromImport, nodes.Break)


class UnknownLoopError(Exception):
    """The loop does something that is not understood."""


def refuse_unknown(node: nodes.Node) -> None:
    """Raises: UnknownLoopError: with this in its body, a loop is better left as it is."""
    is_impure = isinstance(node, nodes.Name | nodes.Filter) and node.name in _IMPURE
    if is_impure or isinstance(node, _UNKNOWN):
        raise UnknownLoopError


def is_loop(node: nodes.Node) -> TypeGuard[nodes.Name]:
    """The variable `loop`."""
    return isinstance(node, nodes.Name) and node.name == "loop"


def stored(node: nodes.Node) -> set[str]:
    """Names that are bound in `node`, itself included."""
    names = [node, *node.find_all(nodes.Name)]
    return {name.name for name in names if isinstance(name, nodes.Name) and name.ctx != "load"}
