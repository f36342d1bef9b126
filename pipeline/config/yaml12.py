"""YAML 1.2 core scalars for PyYAML, which by itself speaks YAML 1.1.

In 1.1 `5e-5` is a string, `no` is false, `010` is eight and `1:30` is ninety. Here they are a
float, a string, ten and a string. Merge keys (`<<`) are kept, because files in use have them.
Source: https://yaml.org/spec/1.2.2/#103-core-schema
"""

import re

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

Scalar = str | int | float | bool | None

_TAG = "tag:yaml.org,2002:"
STR, NULL, BOOL, INT, FLOAT, MERGE, MAP, SEQ = (
    _TAG + name for name in ("str", "null", "bool", "int", "float", "merge", "map", "seq")
)

# Tag, pattern of the whole scalar, its possible first characters ("" is the empty scalar).
_CORE_SCALARS: list[tuple[str, str, list[str]]] = [
    (NULL, r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (BOOL, r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    (INT, r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        FLOAT,
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
]


class CoreResolver(BaseResolver):
    """Gives a plain scalar the type that YAML 1.2 gives it."""


class CoreLoader(Reader, Scanner, Parser, Composer, CoreResolver):
    """From text to nodes with marks; values are made by `scalar_value`."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        CoreResolver.__init__(self)


class CoreDumper(yaml.SafeDumper):
    """Writes scalars that YAML 1.1 and 1.2 readers both read as the same value."""

    def ignore_aliases(self, data: object) -> bool:
        return True


for _tag, _pattern, _first in _CORE_SCALARS:
    _whole = re.compile(rf"(?:{_pattern})\Z")
    CoreResolver.add_implicit_resolver(_tag, _whole, _first)
    CoreDumper.add_implicit_resolver(_tag, _whole, _first)
CoreResolver.add_implicit_resolver(MERGE, re.compile(r"<<\Z"), ["<"])


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # One line whatever the text holds, so that an edit never depends on line folding.
    style = '"' if "\n" in text or "\r" in text else None
    return dumper.represent_scalar(STR, text, style=style)


CoreDumper.add_representer(str, _represent_text)


def scalar_value(tag: str, text: str) -> Scalar:
    """The value of a scalar.

    Raises: ValueError: the text does not fit the tag, or the tag is not of the core schema.
    """
    if tag in (STR, MERGE):
        return text
    for core_tag, pattern, _ in _CORE_SCALARS:
        if tag == core_tag and not re.fullmatch(pattern, text):
            raise ValueError(f"not a {tag.removeprefix(_TAG)}")
    if tag == NULL:
        return None
    if tag == BOOL:
        return text.lower() == "true"
    if tag == INT:
        return _integer(text)
    if tag == FLOAT:
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    raise ValueError(f"the tag {tag.replace(_TAG, '!!')} is not supported; remove it")


def _integer(text: str) -> int:
    if text.startswith("0o"):
        return int(text[2:], 8)
    if text.startswith("0x"):
        return int(text[2:], 16)
    if len(text) > 100:  # Python refuses far longer ones with a message of its own
        raise ValueError("a number of more than 100 digits")
    return int(text)
