"""One line of a proxy's log: {"request_body": {...}, "response_body": {...}, "success"?, ...}.

Message bodies stay undecoded (`msgspec.Raw`), because most of their bytes repeat earlier lines.
Either dialect (Anthropic, OpenAI) is read; a body may also be JSON inside a string.
"""

import datetime
import json
from typing import Any, TypeVar

import msgspec

from pipeline.jsonl import parse_json, parse_json_leniently

NULL = msgspec.Raw(b"null")
_GEN_PARAMS = ("model", "max_tokens", "temperature", "top_p")
_TRUNCATED = ("length", "max_tokens")


class Record(msgspec.Struct):
    """One call, successful or not."""

    request_body: msgspec.Raw
    response_body: msgspec.Raw = NULL
    success: Any = None
    """Only an explicit false means failure: the older logger has no such key."""
    request_time: Any = None
    """Milliseconds since the epoch."""
    timestamp: Any = None
    usage: Any = None


class Request(msgspec.Struct):
    """The prompt: everything that the model saw."""

    messages: list[msgspec.Raw] = []
    system: Any = None
    tools: msgspec.Raw = NULL
    model: Any = None
    max_tokens: Any = None
    temperature: Any = None
    top_p: Any = None


class Response(msgspec.Struct):
    """The answer of either dialect, reduced to what is used."""

    message: dict[str, Any]
    finish_reason: Any
    model: Any
    usage: Any

    @property
    def is_truncated(self) -> bool:
        """The model ran into its token limit: the turn has no end that could be learned."""
        return self.finish_reason in _TRUNCATED


_Body = TypeVar("_Body", Record, Request)


def decode_record(line: bytes) -> Record:
    """Raises: NotJsonError; msgspec.ValidationError: JSON, but not a record of a call."""
    return _decode(line, Record)


def decode_request(body: msgspec.Raw) -> Request:
    """Raises: NotJsonError; msgspec.ValidationError: not a prompt."""
    return _decode(bytes(body), Request)


def decode_response(body: msgspec.Raw) -> Response | None:
    """None: the call brought no message. Raises: NotJsonError."""
    value = _parse(bytes(body))
    if not isinstance(value, dict):
        return None
    message, finish_reason = None, None
    choices = value.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        message, finish_reason = choices[0].get("message"), choices[0].get("finish_reason")
    elif isinstance(value.get("content"), list) and value["content"]:
        message, finish_reason = {"content": value["content"]}, value.get("stop_reason")
    if not isinstance(message, dict):
        return None
    return Response(message, finish_reason, value.get("model"), value.get("usage"))


def _decode(data: bytes, kind: type[_Body]) -> _Body:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = _parse(data)
    if not isinstance(value, dict):
        raise msgspec.ValidationError(f"expected an object (got {type(value).__name__})")
    known = {name: value[name] for name in kind.__struct_fields__ if name in value}
    for name in ("request_body", "response_body", "tools"):
        if name in known:
            known[name] = _to_raw(known[name])
    messages = known.get("messages", [])
    if not isinstance(messages, list) or (kind is Record and "request_body" not in known):
        raise msgspec.ValidationError("no request_body, or messages that are not a list")
    if messages:
        known["messages"] = [_to_raw(message) for message in messages]
    return kind(**known)


def _to_raw(value: Any) -> msgspec.Raw:
    # ASCII, so that lone surrogates survive until the message that holds them is looked at.
    return msgspec.Raw(json.dumps(value).encode())


def _parse(data: bytes) -> Any:
    value = parse_json(data)[0]
    if isinstance(value, str):
        return parse_json_leniently(value.encode("utf-8", "surrogatepass"))
    return value


def date_of(record: Record) -> str:
    """YYYY-MM-DD on which the call was logged, "" if the record has no usable time."""
    if isinstance(record.timestamp, str):
        return record.timestamp[:10]
    try:
        moment = datetime.datetime.fromtimestamp(record.request_time / 1000, datetime.UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return ""
    return moment.date().isoformat()


def gen_params_of(request: Request) -> dict[str, Any]:
    """The sampling parameters that the request sets."""
    values = {name: getattr(request, name) for name in _GEN_PARAMS}
    return {name: value for name, value in values.items() if value is not None}


def tool_schema(tool: Any) -> dict[str, Any]:
    """An OpenAI function schema from either dialect; the validator refuses what is neither."""
    if not isinstance(tool, dict):
        return {}
    if isinstance(tool.get("function"), dict):
        return {"type": "function", "function": tool["function"]}
    function = {
        "name": tool.get("name"),
        "description": tool.get("description") or "",
        "parameters": tool.get("input_schema") or {},
    }
    return {"type": "function", "function": function}
