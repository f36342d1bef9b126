"""Byte-exact edits of a YAML file: one value changes, every other byte stays.

Round-trip YAML libraries reformat lines that nobody asked them to touch. Here the new text is put
in the place of the old one and the result is read again: if anything but the wanted value differs,
the edit is refused. So it cannot damage a file that people keep comments in.
"""

import json
from typing import Any

import yaml

from pipeline.config.document import Document
from pipeline.config.spans import YAML_SPACE, Span, parse_spans
from pipeline.config.yaml12 import CoreDumper
from pipeline.errors import ConfigError

_DEFAULT_INDENT = 2


class EditRefused(Exception):
    """The file cannot be edited exactly; the reason is the message, for the user to read."""


def replace_value(source: bytes, key: tuple[str, ...], value: object) -> bytes:
    """`source` with the value of `key` replaced, or added at the end of its parent mapping.

    Mappings and lists are written as indented blocks in the file's own indentation and newlines. A
    comment on the key's line stays; comments inside the old block go with it.

    Args:
        key: path of mapping keys from the top level.
        value: JSON-able.

    Raises: EditRefused: not YAML, or a form in which the edit would touch something else.
    """
    try:
        before = Document.parse(source, "the file")
    except ConfigError as error:
        raise EditRefused(str(error)) from error
    if before.problems:
        problem = before.problems[0]
        raise EditRefused(f"{problem.position}: {problem.what}")
    text = source.decode("utf-8")
    root = parse_spans(text)
    if root is None:
        raise EditRefused("the file holds nothing")
    edited = _Editor(text, root).replace(before.data, key, value).encode("utf-8")
    _verify(edited, _with_value(before.data, key, value))
    return edited


def _with_value(data: dict[str, Any], key: tuple[str, ...], value: object) -> dict[str, Any]:
    first, *rest = key
    inner = _with_value(data.get(first) or {}, tuple(rest), value) if rest else value
    return {**data, first: inner}


def _verify(edited: bytes, wanted: dict[str, Any]) -> None:
    try:
        after = Document.parse(edited, "the result")
    except ConfigError as error:
        raise EditRefused(f"the result would not be readable: {error}") from error
    # Compared as JSON: it keeps the order of keys, tells 1 from true, and finds nan equal to nan.
    if after.problems or json.dumps(after.data) != json.dumps(wanted):
        raise EditRefused("the result would differ in more than the value")


class _Editor:
    def __init__(self, text: str, root: Span) -> None:
        self.text = text
        self.root = root
        self.newline = "\r\n" if "\r\n" in text else "\n"
        self.indent = _indent_of(root)

    def replace(self, data: dict[str, Any], key: tuple[str, ...], value: object) -> str:
        """The text after the edit; `data` is what it holds now."""
        parent = self.root
        for depth, name in enumerate(key):
            self._check_route(parent, key[:depth])
            new = _nested(key[depth + 1 :], value)
            entry = next((pair for pair in parent.entries or () if pair[0].text == name), None)
            if entry is None:
                edited = self._insert(parent, name, new)
                break
            if depth + 1 == len(key) or not data[name]:  # null and {} have no entries to look into
                edited = self._exchange(*entry, new)
                break
            parent, data = entry[1], data[name]
        else:
            raise EditRefused("no key is named")
        has_final_newline = self.text.endswith("\n")
        return edited if has_final_newline else edited.removesuffix(self.newline)

    def _check_route(self, span: Span, path: tuple[str, ...]) -> None:
        name = ".".join(path) or "the top level"
        if span.alias or span.anchor or span.tag:
            raise EditRefused(f"{name} has an anchor, an alias or a tag")
        if span.entries is None:
            raise EditRefused(f"{name} is not a mapping")
        if not span.is_block:
            raise EditRefused(f"{name} is written in {{braces}}")
        if any(key.text == "<<" for key, _ in span.entries):
            raise EditRefused(f"{name} has a merge key")

    def _insert(self, parent: Span, name: str, value: object) -> str:
        """A new entry on the lines behind the last one."""
        return self._put_lines(self.text, self._next_line(parent.end), {name: value}, parent.column)

    def _exchange(self, key: Span, old: Span, value: object) -> str:
        """A new value in the place of the old one."""
        self._check_exchange(key, old)
        colon = self.text.find(":", key.end)
        if colon < 0 or self.text[key.end : colon].strip(" "):
            raise EditRefused(f"{key.text} is not written as `key: value`")
        after_colon = colon + 1
        text, lines_at = self._without(old, after_colon)
        if not (isinstance(value, dict | list) and value):
            return f"{text[:after_colon]} {self._dump(value)}{text[after_colon:]}"
        column = old.column if old.is_block and old.entries else key.column + self.indent
        return self._put_lines(text, lines_at, value, column)

    def _check_exchange(self, key: Span, old: Span) -> None:
        if old.alias or old.anchor or old.tag:
            raise EditRefused(f"{key.text} has an anchor, an alias or a tag")
        used = {span.alias for span in self.root.walk() if span.alias}
        if lost := sorted(used & {span.anchor for span in old.walk()}):
            raise EditRefused(f"an alias uses the anchor {lost[0]} inside {key.text}")

    def _without(self, old: Span, after_colon: int) -> tuple[str, int]:
        """The text without a value, and where the lines of a new one go."""
        first = self._line_start(old.start)
        next_line = self._next_line(old.end)
        rest = self.text[old.end : next_line]  # behind the value: a comment or nothing
        if first <= after_colon:
            rest = rest if rest.strip(YAML_SPACE) else rest.lstrip(" ")
            text = self.text[:after_colon] + rest + self.text[next_line:]
            return text, after_colon + len(rest)
        if old.is_block or not rest.strip(YAML_SPACE):
            return self.text[:first] + self.text[next_line:], first
        comment = self.text[first : old.start] + rest.lstrip(" ")
        return self.text[:first] + comment + self.text[next_line:], first + len(comment)

    def _put_lines(self, text: str, at: int, value: object, column: int) -> str:
        """`value` as lines in front of the line that starts at `at`."""
        head = text[:at] if text[:at].endswith("\n") else text[:at] + self.newline
        lines = [" " * column + line + self.newline for line in self._dump(value).split("\n")]
        return head + "".join(lines) + text[at:]

    def _dump(self, value: object) -> str:
        """`value` as YAML in block style, without a final newline."""
        dumped = yaml.dump(
            value,
            Dumper=CoreDumper,
            default_flow_style=False,
            allow_unicode=True,
            sort_keys=False,
            indent=self.indent,
            width=2**31,
        )
        return dumped.removesuffix("...\n").rstrip("\n")

    def _line_start(self, index: int) -> int:
        return self.text.rfind("\n", 0, index) + 1

    def _next_line(self, index: int) -> int:
        newline = self.text.find("\n", index)
        return len(self.text) if newline < 0 else newline + 1


def _nested(path: tuple[str, ...], value: object) -> object:
    for name in reversed(path):
        value = {name: value}
    return value


def _indent_of(root: Span) -> int:
    """Columns per level, from the first mapping inside a mapping."""
    for span in root.walk():
        for _, child in span.entries or ():
            if child.is_block and child.entries and child.column > span.column:
                return child.column - span.column
    return _DEFAULT_INDENT
