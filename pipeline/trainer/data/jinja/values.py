"""When two values are the same to a chat template.

Scalars are compared by type and value, namespaces attribute by attribute, and everything else by
identity: the sandbox lets a template change nothing but its namespaces.
"""

from operator import is_
from typing import Any

from jinja2.runtime import Undefined
from jinja2.utils import Namespace

_SCALARS = frozenset({str, int, bool, float, type(None)})


def common(one: list[Any], other: list[Any]) -> int:
    """How many items both lists begin with."""
    same = list(map(is_, one, other))
    return len(same) if all(same) else same.index(False)


def are_same(one: list[Any], other: list[Any], common: int) -> bool:
    return len(one) == len(other) == common


def attributes(space: Namespace) -> dict[str, Any]:
    return space._Namespace__attrs  # pyright: ignore  # Jinja gives no other way to list them


def set_attributes(space: Namespace, found: dict[str, Any]) -> None:
    for name, value in found.items():
        space[name] = value


class _Same:
    """Equal to itself alone."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._value is self._value

    def __hash__(self) -> int:
        return id(self._value)


def token(value: Any) -> Any:
    """Equal for values that a template cannot tell apart."""
    if isinstance(value, Namespace):
        return tokens(attributes(value))
    return _plain_token(value)


def tokens(found: dict[str, Any]) -> Any:
    """Of the attributes of a namespace."""
    return tuple((name, _plain_token(value)) for name, value in found.items())


def _plain_token(value: Any) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return kind, value
    return kind if isinstance(value, Undefined) else _Same(value)
