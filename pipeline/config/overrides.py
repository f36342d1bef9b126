"""`key=value` from the command line, on top of config.yaml.

The key is a dotted path, from the top (`runtime_info.input.training.max_steps`) or from
`runtime_info.input` (`training.max_steps`); the value is YAML.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config.document import Document
from pipeline.config.problems import KeyPath, dotted, is_secret
from pipeline.errors import ConfigError

INPUT: KeyPath = ("runtime_info", "input")
_TOP_LEVEL = ("meta_info", "runtime_info")


@dataclass(frozen=True)
class Override:
    """One `key=value`, read."""

    path: tuple[str, ...]
    value: Any
    text: str
    """As given, unless it may hold a secret."""

    def __str__(self) -> str:
        return f"override '{self.text}'"


def read_override(text: str) -> Override:
    """Raises: ConfigError: no `key=value`, or the value is not YAML."""
    key, equals, value = text.partition("=")
    parts = tuple(part.strip() for part in key.split("."))
    if not equals or not all(parts):
        # Not shown: without a key, nobody knows whether it is a secret.
        raise ConfigError(f"override {key!r}: must be key=value, such as training.max_steps=10")
    path = parts if parts[0] in _TOP_LEVEL else (*(str(part) for part in INPUT), *parts)
    shown = f"{key}=..." if is_secret(path) else text
    # Parsed as the value of a key, so that all errors have the same form as in a file.
    document = Document.parse(f"value: {value}".encode(), f"override '{shown}'")
    if document.problems or document.data.keys() != {"value"}:
        raise ConfigError(f"override '{shown}': the value is not one YAML value; quote it")
    return Override(path, document.data["value"], shown)


def apply_override(data: Mapping[str, Any], override: Override) -> dict[str, Any]:
    """`data` with one value set; sections on the way are made where absent.

    Raises: ConfigError: the path leads through something that is no section.
    """
    return _with(data, override.path, override, ())


def _with(
    section: Mapping[str, Any], path: tuple[str, ...], override: Override, above: KeyPath
) -> dict[str, Any]:
    key, *rest = path
    if not rest:
        return {**section, key: override.value}
    child = section.get(key)
    if not isinstance(child, Mapping | None):
        raise ConfigError(f"{override}: {dotted((*above, key))} is no section; name a key in one")
    return {**section, key: _with(child or {}, tuple(rest), override, (*above, key))}
