"""A YAML text as a tree of character ranges, for edits that leave every other byte alone.

PyYAML's end mark of a block collection lies behind the comments and blank lines that follow it;
here a range ends with its last content, so that what follows is not taken for a part of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from pipeline.config.yaml12 import CoreLoader

YAML_SPACE = " \t\r\n"
"""White space of YAML; other kinds that Unicode has, such as U+00A0, are part of a value."""


@dataclass
class Span:
    """One value of the text."""

    start: int
    end: int
    """Behind its last character, without trailing white space."""
    column: int
    is_block: bool = False
    """A mapping or list written as indented lines."""
    text: str | None = None
    """A scalar's text; None for collections."""
    entries: list[tuple["Span", "Span"]] | None = None
    """A mapping's keys and values; None for everything else."""
    items: list["Span"] = field(default_factory=list)
    """A list's values."""
    anchor: str | None = None
    alias: str | None = None
    """The anchor that stands for the value."""
    tag: str | None = None

    def last_child_end(self) -> int:
        """Where the last value below this one ends."""
        return max(child.end for pair in (*(self.entries or ()), self.items) for child in pair)

    def walk(self) -> Iterator["Span"]:
        """This value and all below it."""
        yield self
        for key, value in self.entries or ():
            yield from key.walk()
            yield from value.walk()
        for item in self.items:
            yield from item.walk()


def parse_spans(text: str) -> Span | None:
    """The root of a text with one document; None if it is empty.

    Raises: yaml.YAMLError: not YAML.
    """
    loader = CoreLoader(text)
    while loader.check_event():
        if isinstance(loader.peek_event(), yaml.NodeEvent):
            return _span(loader, text)
        loader.get_event()
    return None


def _span(loader: CoreLoader, text: str) -> Span:
    event = loader.get_event()
    start = event.start_mark
    span = Span(start.index, event.end_mark.index, start.column)
    if isinstance(event, yaml.AliasEvent):
        span.alias = event.anchor
        return span
    span.anchor, span.tag = event.anchor, event.tag
    if isinstance(event, yaml.ScalarEvent):
        span.text = event.value
    elif isinstance(event, yaml.MappingStartEvent):
        span.entries = []
        while not loader.check_event(yaml.MappingEndEvent):
            span.entries.append((_span(loader, text), _span(loader, text)))
    else:
        while not loader.check_event(yaml.SequenceEndEvent):
            span.items.append(_span(loader, text))
    if isinstance(event, yaml.CollectionStartEvent):
        closing = loader.get_event()
        span.is_block = not event.flow_style
        span.end = span.last_child_end() if span.is_block else closing.end_mark.index
    span.end = span.start + len(text[span.start : span.end].rstrip(YAML_SPACE))
    return span
