"""A YAML file as plain data that remembers where every key and value stands.

`Document.parse` reads strictly (see `yaml12`) and collects what the data itself would hide:
duplicate keys, keys that are not text, unknown tags. `Document.position` answers for any path of
keys, so that an error found later can still name line and column.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.problems import KeyPath, Position, Problem
from pipeline.config.yaml12 import MAP, MERGE, SEQ, STR, CoreLoader, scalar_value
from pipeline.errors import ConfigError

# A page of aliases can stand for billions of values; no config has this many.
_MAX_NODES = 100_000

_START = yaml.Mark("", index=0, line=0, column=0, buffer=None, pointer=0)
_EMPTY = yaml.MappingNode(MAP, [], _START, _START)

_Pair = tuple[yaml.Node, yaml.Node]


@dataclass(frozen=True)
class Document:
    """One parsed YAML file whose top level is a mapping (an empty file is an empty mapping)."""

    name: str
    """How error messages call the file."""
    data: dict[str, Any]
    problems: list[Problem]
    """What is wrong with the file as YAML although it could be read."""
    _root: yaml.MappingNode

    @classmethod
    def read(cls, path: Path) -> "Document":
        """Raises: ConfigError: the file is missing, unreadable, or not YAML."""
        return cls.parse(read_source(path), display_name(path))

    @classmethod
    def parse(cls, source: bytes, name: str) -> "Document":
        """Raises: ConfigError: not UTF-8, not YAML, or the top level is no mapping."""
        text = decode(source, name)
        root = compose(text, name)
        if root is None or (isinstance(root, yaml.ScalarNode) and root.value == ""):
            root = _EMPTY
        if not isinstance(root, yaml.MappingNode):
            where = _position(root.start_mark)
            raise ConfigError(f"{name}:{where}: the top level must be a mapping of `key: value`")
        builder = _Builder()
        return cls(name, builder.value(root, ()), builder.problems, root)

    def position(self, path: KeyPath, *, at_key: bool = False) -> Position:
        """Where the value (or the key) of `path` stands; of its nearest parent if it is absent.

        A section is placed at its key, not at the first line of its content.
        """
        node: yaml.Node = self._root
        key = node
        for part in path:
            pair = _child(node, part)
            if pair is None:
                return _position(key.start_mark)
            key, node = pair
        is_key = at_key or isinstance(node, yaml.CollectionNode)
        return _position(key.start_mark if is_key else node.start_mark)

    def has(self, path: KeyPath) -> bool:
        """Whether the file holds a value at `path`."""
        node: yaml.Node = self._root
        for part in path:
            pair = _child(node, part)
            if pair is None:
                return False
            node = pair[1]
        return True


def display_name(path: Path) -> str:
    """`path` as a user in the current directory would write it."""
    absolute = path.absolute()
    here = Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else path)


def read_source(path: Path) -> bytes:
    """Raises: ConfigError: the file is missing or unreadable."""
    name = display_name(path)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"{name}: no such file; name another one with --config or SFT_CONFIG"
        ) from None
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read ({error.strerror}); check the path") from error


def decode(source: bytes, name: str) -> str:
    """Raises: ConfigError: the bytes are not UTF-8."""
    try:
        return source.decode("utf-8")
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        column = error.start - source.rfind(b"\n", 0, error.start)
        raise ConfigError(
            f"{name}:{line}:{column}: not UTF-8 (byte 0x{source[error.start]:02x}); "
            "save the file as UTF-8"
        ) from None


def compose(text: str, name: str) -> yaml.Node | None:
    """The root node of a YAML text; None if it is empty.

    Raises: ConfigError: a syntax error, with its position.
    """
    try:
        return CoreLoader(text).get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        raise ConfigError(
            f"{name}:{line}:{column}: a character that YAML does not allow "
            f"(U+{ord(text[error.position]):04X}); remove it"
        ) from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{name}:{_syntax_error(error)}") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply to be a config") from None


def _syntax_error(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"{_position(mark)}: " if mark else " "
    problem = error.problem or "unreadable"
    if "'\\t'" in problem:
        return f"{where}a tab cannot indent or start a value in YAML; use spaces"
    if "expected a single document" in (error.context or ""):
        return f"{where}a second document starts here; keep one document per file"
    context = f"{error.context}: " if error.context else ""
    return f"{where}not valid YAML: {context}{problem}"


def _position(mark: yaml.Mark) -> Position:
    return Position(mark.line + 1, mark.column + 1)


def _pairs(node: yaml.MappingNode, *within: yaml.Node) -> Iterator[_Pair]:
    """Entries of a mapping as they count: its own, then what merge keys add, first one wins."""
    merged: list[yaml.Node] = []
    for key, value in node.value:
        if key.tag == MERGE:
            merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
        else:
            yield key, value
    for source in merged:
        if isinstance(source, yaml.MappingNode) and source not in (node, *within):
            yield from _pairs(source, node, *within)


def _child(node: yaml.Node, part: str | int) -> _Pair | None:
    if isinstance(node, yaml.MappingNode):
        return next((pair for pair in _pairs(node) if pair[0].value == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    return None


@dataclass
class _Builder:
    """Turns nodes into data and notes what is wrong on the way."""

    problems: list[Problem] = field(default_factory=list)
    _open: set[int] = field(default_factory=set)
    _num_nodes: int = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self._num_nodes += 1
        if id(node) in self._open:
            return self._note(node, path, "an alias to a value that contains it; remove it")
        if self._num_nodes > _MAX_NODES:
            if self._num_nodes == _MAX_NODES + 1:
                self._note(node, path, f"aliases expand to more than {_MAX_NODES:,} values")
            return None
        if isinstance(node, yaml.ScalarNode):
            try:
                return scalar_value(node.tag, node.value)
            except ValueError as error:
                return self._note(node, path, str(error))
        if node.tag not in (MAP, SEQ):
            return self._note(node, path, f"the tag {node.tag} is not supported; remove it")
        self._open.add(id(node))
        built = (
            self._mapping(node, path)
            if isinstance(node, yaml.MappingNode)
            else [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        )
        self._open.discard(id(node))
        return built

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        self._check_keys(node, path)
        built: dict[str, Any] = {}
        for key, value in _pairs(node):
            if key.tag == STR and key.value not in built:
                built[key.value] = self.value(value, (*path, key.value))
        return built

    def _check_keys(self, node: yaml.MappingNode, path: KeyPath) -> None:
        first_seen: dict[str, yaml.Mark] = {}
        for key, value in node.value:
            if key.tag not in (STR, MERGE):
                shown = key.value if isinstance(key, yaml.ScalarNode) else "a collection"
                self._note(key, path, f"a key must be text (got {shown}); put it in quotes")
            elif key.value in first_seen:
                first = _position(first_seen[key.value])
                self._note(key, (*path, key.value), f"duplicate key; the first is at {first}")
            else:
                first_seen[key.value] = key.start_mark
            if key.tag == MERGE and not _is_mergeable(value):
                self._note(value, path, "<< needs an alias of a mapping, or a list of such")

    def _note(self, node: yaml.Node, path: KeyPath, what: str) -> None:
        self.problems.append(Problem(path, what, position=_position(node.start_mark)))


def _is_mergeable(node: yaml.Node) -> bool:
    if isinstance(node, yaml.SequenceNode):
        return all(isinstance(item, yaml.MappingNode) for item in node.value)
    return isinstance(node, yaml.MappingNode)
