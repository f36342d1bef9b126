"""The beginning of a raw file -> the JSON that stands there, to tell which agent wrote it.

A file is recognised by its head, which may end in the middle of a string. What stands there is
read as if the string and all open brackets closed.
"""

import contextlib
import functools
import json
import re
from typing import Any

HEAD_BYTES = 1 << 18
"""How much of a file is looked at. The first call in a proxy's log, with its system prompt and
tools, is larger than 64 KiB for some agents."""

_MAX_DOCUMENTS = 64
# A string without an end stops at the end of its line: JSON has no line break inside strings.
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*("?)|[{}\[\],]')
_CLOSING = {"{": "}", "[": "]"}


@functools.lru_cache(maxsize=4)  # every scaffold looks at the same head
def first_documents(head: bytes) -> list[Any]:
    """The objects and arrays at the start of a file: one of a JSON file, many of JSON lines.

    What is between them and is not JSON is passed over. Callers must not change the result.
    """
    text = head.decode("utf-8", "replace")
    documents: list[Any] = []
    position = 0
    while len(documents) < _MAX_DOCUMENTS:
        starts = [found for mark in "{[" if (found := text.find(mark, position)) >= 0]
        if not starts:
            break
        document, position = _document_at(text, min(starts))
        if document is not None:
            documents.append(document)
    return documents


def first_objects(head: bytes) -> list[dict[str, Any]]:
    """Those of `first_documents` that are objects; of one array, the objects in it."""
    documents = first_documents(head)
    if len(documents) == 1 and isinstance(documents[0], list):
        documents = documents[0]
    return [document for document in documents if isinstance(document, dict)]


def _document_at(text: str, start: int) -> tuple[Any, int]:
    """(the document that starts there, None if it is damaged; where to look for the next)."""
    open_brackets: list[str] = []
    # Up to here the text becomes JSON by closing these brackets.
    complete, closing = start, ""
    cut = ""
    after = len(text)
    for token in _TOKEN.finditer(text, start):
        mark = token[0][0]
        if mark == '"':
            if not token[1]:
                cut = text[start : token.end()] + '"'
                after = _next_line(text, token.start())
                break
            continue
        if mark == ",":
            complete = token.start()
        else:
            if mark in _CLOSING:
                open_brackets.append(_CLOSING[mark])
            elif open_brackets.pop() != mark:
                return None, _next_line(text, token.start())
            complete = token.end()
        closing = "".join(reversed(open_brackets))
        if not open_brackets:
            break
    for readable in (cut, text[start:complete]):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(readable + closing), after if closing else complete
    return None, _next_line(text, start)


def _next_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end + 1
