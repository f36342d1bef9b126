"""Codex CLI rollouts (~/.codex/sessions/YYYY/MM/DD/rollout-*.jsonl).

    {"timestamp", "type": "session_meta|turn_context|response_item|compacted|event_msg|...",
     "payload": {...}}

Only response items are the conversation; event messages repeat them for the screen. Until
September 2025 the items stood bare on their lines, between {"record_type": "state"}. Reasoning is
encrypted, what is readable are summaries made for people: neither is kept. A compaction replaces
the history, so it starts a conversation. The tools are not in the file.
"""

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.rejects import Defect, RejectReason
from pipeline.scaffolds.assembly import (
    UnusableError,
    call_of,
    close,
    date_of,
    numbered_records,
    object_of,
    refuse,
    string_of,
    text_of,
)
from pipeline.scaffolds.dangling import cut_dangling
from pipeline.scaffolds.normalize import PART_SEPARATOR
from pipeline.scaffolds.parsed import Conversation, Parsed, RawFiles
from pipeline.scaffolds.peek import first_objects
from pipeline.trajectory import Message, ToolCall

_CALLS = ("function_call", "custom_tool_call", "local_shell_call")
_OUTPUTS = ("function_call_output", "custom_tool_call_output")
# Run by the provider, or bookkeeping: no turn of the conversation shows them.
_NO_TURN = (
    *("reasoning", "web_search_call", "tool_search_call", "tool_search_output"),
    *("image_generation_call", "ghost_snapshot", "agent_message", "other"),
)
_ENCRYPTED_SUMMARIES = ("compaction", "compaction_summary", "context_compaction")


def recognises(head: bytes, name: str) -> bool:
    return any(_is_rollout(record) for record in first_objects(head))


def _is_rollout(record: dict[str, Any]) -> bool:
    has_payload = isinstance(record.get("payload"), dict)
    is_new = has_payload and record.get("type") in ("session_meta", "response_item")
    return is_new or record.get("record_type") == "state"


def parse(files: RawFiles) -> Parsed:
    """A rollout -> one conversation for each context window."""
    parsed = Parsed()
    rollout = _Rollout(parsed)
    for _, record in numbered_records(files, parsed):
        rollout.add(record)
    rollout.finish()
    if not parsed.conversations and not parsed.rejects:
        refuse(parsed, Defect(RejectReason.NO_CALLS, "no turn of the agent"))
    return parsed


@dataclass(slots=True)
class _Window:
    """What the model saw since the start or the last compaction."""

    messages: list[Message] = field(default_factory=list)
    is_open: bool = False
    """Whether the next item of the agent belongs to its last turn."""
    defect: Defect | None = None


class _Rollout:
    def __init__(self, parsed: Parsed) -> None:
        self._parsed = parsed
        self._counts: Counter[str] = parsed.counts
        self._system = ""
        self._model = ""
        self._date = ""
        self._num_windows = 0
        self._window = _Window()

    def add(self, record: dict[str, Any]) -> None:
        self._date = date_of(record.get("timestamp")) or self._date
        kind, payload = string_of(record.get("type")), object_of(record.get("payload"))
        if kind == "response_item":
            self._add_item(payload)
        elif kind == "compacted":
            self._compact(payload)
        elif kind == "session_meta" or (not kind and "instructions" in record):
            self._begin(payload or record)
        elif kind == "turn_context":
            self._model = string_of(payload.get("model")) or self._model
        elif kind == "event_msg" and payload.get("type") == "turn_aborted":
            self._abort()
        elif not payload and kind in ("message", "reasoning", *_CALLS, *_OUTPUTS):
            self._add_item(record)
        else:
            kind = kind or string_of(record.get("record_type")) or "untyped"
            self._counts[f"skipped_{kind}"] += 1

    def _begin(self, meta: dict[str, Any]) -> None:
        base = meta.get("base_instructions")
        text = object_of(base).get("text") or base or meta.get("instructions")
        self._system = self._system or string_of(text)

    def _add_item(self, item: dict[str, Any]) -> None:
        kind = string_of(item.get("type"))
        try:
            if kind == "message":
                self._add_message(item)
            elif kind in _CALLS:
                self._extend(calls=[_call(item)])
            elif kind in _OUTPUTS:
                self._window.messages.append(_result(item, self._counts))
                self._window.is_open = False
            elif kind in _NO_TURN:
                self._counts[f"skipped_{kind}"] += 1
            elif kind in _ENCRYPTED_SUMMARIES:
                what = "the history was replaced by an encrypted summary"
                raise UnusableError(RejectReason.CONTEXT_SUMMARIZATION, what)
            else:
                what = f"response_item: cannot represent an item of type {kind!r}"
                raise UnusableError(RejectReason.UNSUPPORTED_CONTENT, what)
        except UnusableError as error:
            self._window.defect = self._window.defect or error.defect

    def _add_message(self, item: dict[str, Any]) -> None:
        text = text_of(item.get("content"), self._counts, "content")
        role = item.get("role")
        if role == "assistant":
            self._extend(text)
            return
        if role in ("developer", "system"):
            if not self._window.messages:
                self._system = "\n\n".join(part for part in (self._system, text) if part)
                return
            self._counts["late_developer_messages"] += 1  # only one system turn can be shown
        if text.strip():
            self._window.messages.append(Message("user", text))
        self._window.is_open = False

    def _extend(self, text: str = "", calls: list[ToolCall] | None = None) -> None:
        """Items of the agent are one turn until something else comes."""
        messages = self._window.messages
        if not self._window.is_open:
            messages.append(Message("assistant", ""))
            self._window.is_open = True
        last = messages[-1]
        content = PART_SEPARATOR.join(part for part in (last.content, text) if part)
        messages[-1] = replace(last, content=content, tool_calls=last.tool_calls + (calls or []))

    def _abort(self) -> None:
        """The user broke off the last turn: it may be half of what the model would have said."""
        self._counts["aborted_turns"] += 1
        self._window.is_open = False
        messages = self._window.messages
        for index in range(len(messages) - 1, -1, -1):
            if messages[index].role == "assistant":
                messages[index] = replace(messages[index], weight=0.0)
                return
            if messages[index].role == "user":
                return

    def _compact(self, payload: dict[str, Any]) -> None:
        self._close()
        self._counts["compactions"] += 1
        history = payload.get("replacement_history")
        if isinstance(history, list):
            for item in history:
                self._add_item(object_of(item))
            messages = self._window.messages
            self._window.messages = [replace(message, weight=0.0) for message in messages]
            self._window.is_open = False
        elif string_of(payload.get("message")).strip():
            self._window.messages.append(Message("user", payload["message"]))

    def _close(self) -> None:
        window, self._window = self._window, _Window()
        if not any(message.role == "assistant" for message in window.messages):
            self._counts["windows_without_turns"] += bool(window.messages)
            return
        self._num_windows += 1
        chain_id = "main" if self._num_windows == 1 else f"main-{self._num_windows}"
        if window.defect:
            refuse(self._parsed, window.defect, chain_id)
            return
        messages = [message for _, message in cut_dangling(window.messages, self._counts)]
        if not messages:
            what = "no turn is left without the calls that have no result"
            defect = Defect(RejectReason.UNANSWERED_TOOL_CALL, what)
            refuse(self._parsed, defect, chain_id)
            return
        if self._system:
            messages.insert(0, Message("system", self._system))
        conversation = Conversation(chain_id, messages, [], self._model, self._date)
        close(self._parsed, conversation)

    def finish(self) -> None:
        self._close()
        self._counts["without_tools"] += len(self._parsed.conversations)
        self._counts["without_system_prompt"] += (
            0 if self._system else len(self._parsed.conversations)
        )


def _call(item: dict[str, Any]) -> ToolCall:
    identity = item.get("call_id") or item.get("id")
    if item["type"] == "custom_tool_call":  # its input is free text, not JSON
        arguments = json.dumps({"input": string_of(item.get("input"))}, ensure_ascii=False)
        return call_of(identity, item.get("name"), arguments)
    if item["type"] == "local_shell_call":
        return call_of(identity, "local_shell", object_of(item.get("action")))
    return call_of(identity, item.get("name"), item.get("arguments"))


def _result(item: dict[str, Any], counts: Counter[str]) -> Message:
    output = item.get("output")
    is_error = False
    if isinstance(output, dict) and "content" in output:
        is_error = output.get("success") is False
        output = output["content"]
    text = text_of(output, counts, "output")
    return Message(
        "tool",
        text,
        tool_call_id=str(item.get("call_id") or ""),
        is_error=is_error or _exit_code(text) not in (0, None),
    )


def _exit_code(text: str) -> Any:
    """Some versions put the exit code beside the output, in JSON; the model saw it all."""
    if not text.startswith('{"'):
        return None
    try:
        return object_of(object_of(json.loads(text)).get("metadata")).get("exit_code")
    except (ValueError, RecursionError):
        return None
