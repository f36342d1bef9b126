"""What the loops of a chat template read, so that an iteration need not run twice.

A conversation is rendered once per request, and each request shows the messages of the one before
it. Templates go over them in loops at their top level. An iteration whose inputs are known shows
what it showed before, if the inputs can be told from the template's text:

    the item, and where in the loop it stands; the names and namespaces of the rest of the
    template; items of a list at a fixed distance (`messages[loop.index0 - 1]`)

`mark_loops` looks for such loops and lets them go over `RESUME(<what they go over>, <number of the
loop>, <values that it reads>)` instead. All other loops stay as they are. Loops from the end of a
list are in scans.py.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jinja2 import Environment, nodes

from pipeline.trainer.data.jinja.scans import Scan, is_reversed, read_scan
from pipeline.trainer.data.jinja.syntax import UnknownLoopError, is_loop, refuse_unknown, stored

RESUME = "_resume_loop"
"""A function in the template's context; `loop_memo.Rendering.resume`."""

_BY_POSITION = frozenset({"index", "index0", "first", "previtem"})
_BY_NEXT_ITEM = frozenset({"last", "nextitem"})


@dataclass(frozen=True)
class LoopReads:
    """What an iteration depends on, beside its item and those before it."""

    names: tuple[str, ...]
    """Whose values decide: all of them, and all attributes of namespaces."""
    lists: tuple[str, ...] = ()
    """Of which an iteration sees single items alone: those at `offsets` and `constants`."""
    offsets: frozenset[tuple[str, int]] = frozenset()
    """(list, distance from the position of the iteration)"""
    constants: frozenset[tuple[str, int]] = frozenset()
    """(list, position)"""
    sees_next: bool = False
    """Whether there is a next item, and which."""
    scan: Scan | None = None
    """For a loop over `lists[0]` from its end."""


def mark_loops(template: nodes.Template, environment: Environment) -> list[LoopReads]:
    """Change the loops that are understood, in place. Returns: what each of them reads."""
    macros = _macros(template)
    found: list[LoopReads] = []
    for loop in _top_level_loops(template.body):
        try:
            reads = _backward(loop) if is_reversed(loop.iter) else _forward(loop, macros)
        except UnknownLoopError:
            continue
        given = [nodes.Name(name, "load") for name in (*reads.names, *reads.lists)]
        arguments = [loop.iter, nodes.Const(len(found)), *given]
        call = nodes.Call(nodes.Name(RESUME, "load"), arguments, [], None, None)
        loop.iter = call.set_lineno(loop.lineno).set_environment(environment)
        found.append(reads)
    return found


def _top_level_loops(body: Iterable[nodes.Node]) -> Iterator[nodes.For]:
    for node in body:
        if isinstance(node, nodes.For):
            if not (node.recursive or node.test or node.else_):
                yield node
        elif isinstance(node, nodes.If):
            yield from _top_level_loops([*node.body, *node.elif_, *node.else_])


def _macros(template: nodes.Template) -> dict[str, nodes.Macro]:
    """Those that their names stand for wherever they are read."""
    bound = [name.name for name in template.find_all(nodes.Name) if name.ctx != "load"]
    bound += [macro.name for macro in template.find_all(nodes.Macro)]
    top = (node for node in template.body if isinstance(node, nodes.Macro))
    return {macro.name: macro for macro in top if bound.count(macro.name) == 1}


def _forward(loop: nodes.For, macros: dict[str, nodes.Macro]) -> LoopReads:
    reader = _Reader(macros, stored(loop))
    for node in loop.body:
        reader.visit(node)
    names = reader.names - stored(loop.target)
    visited: set[str] = set()
    while missing := reader.macros - visited:
        macro = macros[missing.pop()]
        visited.add(macro.name)
        inside = _Reader(macros, is_macro=True)
        for node in (*macro.defaults, *macro.body):
            inside.visit(node)
        names |= inside.names - {argument.name for argument in macro.args}
        reader.macros |= inside.macros
    lists = {name for name, _ in reader.offsets | reader.constants} - names
    return LoopReads(
        tuple(sorted(names)),
        tuple(sorted(lists)),
        frozenset((name, offset) for name, offset in reader.offsets if name in lists),
        frozenset((name, place) for name, place in reader.constants if name in lists),
        reader.sees_next,
    )


class _Reader:
    """Collects what the body of a loop, or of a macro, reads."""

    def __init__(
        self, macros: dict[str, nodes.Macro], bound: Iterable[str] = (), *, is_macro: bool = False
    ) -> None:
        """`bound`: names that the loop itself binds."""
        self._known_macros = macros
        self._bound = {*bound, "loop"}
        self._is_macro = is_macro
        self._loop_is_ours = not is_macro
        self.names: set[str] = set()
        self.macros: set[str] = set()
        self.offsets: set[tuple[str, int]] = set()
        self.constants: set[tuple[str, int]] = set()
        self.sees_next = False

    def visit(self, node: nodes.Node) -> None:
        refuse_unknown(node)
        if isinstance(node, nodes.For):
            self._visit_inner_loop(node)
        elif isinstance(node, nodes.NSRef):
            self.names.add(node.name)
        elif isinstance(node, nodes.Name):
            self._visit_name(node)
        elif self._loop_is_ours and isinstance(node, nodes.Getattr) and is_loop(node.node):
            self._visit_position(node.attr)
        elif not (isinstance(node, nodes.Getitem) and self._is_item(node)):
            for child in node.iter_child_nodes():
                self.visit(child)

    def _visit_inner_loop(self, node: nodes.For) -> None:
        for part in (node.iter, *node.else_):
            self.visit(part)
        ours, self._loop_is_ours = self._loop_is_ours, False
        for part in (*node.body, *([node.test] if node.test else [])):
            self.visit(part)
        self._loop_is_ours = ours

    def _visit_position(self, attribute: str) -> None:
        if attribute in _BY_NEXT_ITEM:
            self.sees_next = True
        elif attribute not in _BY_POSITION:
            raise UnknownLoopError

    def _visit_name(self, node: nodes.Name) -> None:
        if node.name == "loop":
            if self._loop_is_ours:
                raise UnknownLoopError
        elif node.ctx == "load":
            (self.macros if node.name in self._known_macros else self.names).add(node.name)

    def _is_item(self, node: nodes.Getitem) -> bool:
        """`name[5]`, `name[loop.index0]`, `name[loop.index0 + 1]` of a list of the template."""
        if self._is_macro or not isinstance(node.node, nodes.Name):
            return False
        if node.node.name in self._bound:
            return False
        index, distance = node.arg, 0
        if isinstance(index, nodes.Const) and type(index.value) is int and index.value >= 0:
            self.constants.add((node.node.name, index.value))
            return True
        if isinstance(index, nodes.Add | nodes.Sub) and isinstance(index.right, nodes.Const):
            distance = index.right.value if isinstance(index, nodes.Add) else -index.right.value
            index = index.left
        if not self._loop_is_ours or not isinstance(index, nodes.Getattr):
            return False
        if not is_loop(index.node) or index.attr not in ("index", "index0"):
            return False
        if type(distance) is not int:
            return False
        self.offsets.add((node.node.name, distance + (index.attr == "index")))
        return True


def _backward(loop: nodes.For) -> LoopReads:
    items, scan = read_scan(loop)
    names = scan.whole | {name for name, _ in scan.read | scan.written}
    return LoopReads(tuple(sorted(names)), (items,), scan=scan)
