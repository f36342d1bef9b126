"""OpenHands' own log of model calls, one JSON file a call: a proxy log in another envelope.

    {"messages", "tools", "response", "kwargs", "timestamp", "cost",
     "raw_messages"?, "raw_response"?}                              the SDK
    {"messages", "response", "fncall_messages"?, "fncall_response"?}  V0 (log_completions)

A model without function calling was sent a prompted form and answered in it; the file then holds
the structured form too, which is what is read, for history and replies alike. Only where the
structured history is missing is the prompted form read, then for both; the stop string that ended
such a reply is put back, as the next prompt has it.

Source: https://github.com/OpenHands/software-agent-sdk openhands/sdk/llm/utils/telemetry.py.
"""

import json
from collections.abc import Iterator
from typing import Any

from pipeline.scaffolds import proxy_log
from pipeline.scaffolds.assembly import (
    UnusableError,
    list_of,
    object_of,
    read_json,
    refuse,
    string_of,
)
from pipeline.scaffolds.parsed import Parsed, RawFiles
from pipeline.scaffolds.peek import first_objects

_CALL_START, _CALL_END = "<function=", "</function>"


def parse(files: RawFiles) -> Parsed:
    """All calls of a directory -> their conversations."""
    unreadable = Parsed()
    parsed = proxy_log.parse(_records(files, unreadable), proxy_log.Client())
    parsed.rejects[:0] = unreadable.rejects
    return parsed


def recognises(head: bytes, name: str) -> bool:
    # `response` stands behind the messages, often behind the head's end; these stand before them.
    first = next(iter(first_objects(head)), {})
    is_call = isinstance(first.get("messages"), list) and "request_body" not in first
    return is_call and any(key in first for key in ("response", "kwargs", "context_window"))


def _records(files: RawFiles, unreadable: Parsed) -> Iterator[bytes]:
    """A line of a proxy log for each call."""
    for name in files.names:
        if name != files.main and not name.endswith(".json"):
            continue
        try:
            call = object_of(read_json(files.read(name), name))
        except UnusableError as error:
            refuse(unreadable, error.defect)
            continue
        # ASCII, so that lone surrogates reach the check that names them.
        yield json.dumps(_record(call)).encode()


def _record(call: dict[str, Any]) -> dict[str, Any]:
    settings = object_of(call.get("kwargs"))
    messages, response = call.get("messages"), call.get("response")
    tools = call.get("tools") or settings.get("tools")
    structured = _parsed(call.get("raw_messages") or call.get("fncall_messages"))
    if structured:
        messages, response = structured, call.get("fncall_response") or response
    elif "raw_response" in call:
        response, tools = _with_stop_string(call["raw_response"]), None
    request = {key: settings.get(key) for key in ("temperature", "top_p")}
    request |= {"messages": messages, "tools": tools}
    time = call.get("timestamp")
    record = {"request_body": request, "response_body": response}
    return record | ({"request_time": time * 1000} if isinstance(time, float) else {})


def _parsed(messages: Any) -> Any:
    """`raw_messages` may be JSON text."""
    if not isinstance(messages, str):
        return messages
    try:
        return read_json(messages.encode("utf-8", "surrogatepass"))
    except UnusableError:
        return None


def _with_stop_string(response: Any) -> Any:
    """A reply as the next prompt shows it: the call at its end is closed."""
    choices = list_of(object_of(response).get("choices"))
    message = object_of(object_of(choices[0]).get("message")) if choices else {}
    content = string_of(message.get("content"))
    if content.rfind(_CALL_END) < content.rfind(_CALL_START):
        content = content.rstrip("\n") + f"\n{_CALL_END}"
    return {**object_of(response), "choices": [{"message": message | {"content": content}}]}
