"""OpenCode's own session: call and result stand in one part of an assistant message.

    message {"id", "sessionID", "role", "modelID", "providerID", "time", "tokens", "error"?}
    part    {"id", "messageID", "type": "text" | "reasoning" | "tool" | "step-start" | ...}
    tool    {"callID", "tool", "state": {"status", "input", "output" | "error"}}

Three layouts hold the same: `opencode export` (one JSON object {"info", "messages": [{"info",
"parts"}]}), the storage directory (storage/message/<session>/*.json, storage/part/<message>/*.json)
and a database export (messages.json, parts.json; `data` is JSON text). Each session is one
conversation; sessions of subagents are subagent chains. System prompt and tool schemas are not
stored, so none are given. After a compaction the next window starts. A call that was broken off
has the result that OpenCode shows for it, and its turn is context.

Source: https://github.com/sst/opencode packages/opencode/src/session.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from pipeline.rejects import Defect, RejectReason
from pipeline.scaffolds.assembly import (
    UnusableError,
    call_of,
    close,
    date_of,
    list_of,
    object_of,
    read_json,
    refuse,
    string_of,
)
from pipeline.scaffolds.normalize import IMAGE_PLACEHOLDER, PART_SEPARATOR
from pipeline.scaffolds.parsed import Conversation, Parsed, RawFiles
from pipeline.scaffolds.peek import first_objects
from pipeline.trajectory import Message

_SAID = ("text", "reasoning", "tool")
_NO_RESULT = ("pending", "running")
# What OpenCode itself shows the model in these places.
_INTERRUPTED = "[Tool execution was interrupted]"
_COMPACTION_PROMPT = "What did we do so far?"

_Entry = tuple[dict[str, Any], list[dict[str, Any]]]
"""(message, its parts), in order."""


@dataclass(slots=True)
class _Session:
    messages: list[_Entry] = field(default_factory=list)
    parent: str = ""
    """The session whose task tool started this one."""


def parse(files: RawFiles) -> Parsed:
    """A session in any layout -> one conversation for each session."""
    parsed = Parsed()
    sessions = _read(files, parsed)
    if not sessions and not parsed.rejects:
        message = "no message of a session; expected an OpenCode export or its storage directory"
        refuse(parsed, Defect(RejectReason.NO_CALLS, message))
    num_main = 0
    for identity, session in sessions.items():
        for number, window in enumerate(_windows(session)):
            chain_id = f"chain-{num_main}"
            if session.parent:
                chain_id = f"subagent-{identity}" + (f"-{number}" if number else "")
            num_main += not session.parent
            close(parsed, _conversation(chain_id, window, parsed.counts))
    return parsed


def _conversation(chain_id: str, window: list[_Entry], counts: Counter[str]) -> Conversation:
    replies = [info for info, _ in window if info.get("role") == "assistant"]
    last = replies[-1] if replies else {}
    return Conversation(
        chain_id=chain_id,
        messages=_messages(window, counts),
        tools=[],
        model=string_of(last.get("modelID")),
        generated_on=date_of(object_of(last.get("time")).get("created")),
        usage=_usage(replies),
        exception=string_of(object_of(last.get("error")).get("name")),
    )


def recognises(head: bytes, name: str) -> bool:
    """Whether it is an export of a session, or of a table of the database."""
    first = next(iter(first_objects(head)), {})
    message = object_of(next(iter(list_of(first.get("messages"))), {}))
    is_export = "info" in message and "parts" in message
    return is_export or ("session_id" in first and "data" in first)


def recognises_storage(head: bytes, name: str) -> bool:
    """Whether it is a message or a part of one, from the storage directory."""
    first = next(iter(first_objects(head)), {})
    is_message = first.get("role") in ("user", "assistant") and "messageID" not in first
    return "sessionID" in first and (is_message or {"messageID", "type"} <= first.keys())


def _read(files: RawFiles, parsed: Parsed) -> dict[str, _Session]:
    """The sessions of a unit, in the order of their first message."""
    infos: dict[str, dict[str, Any]] = {}
    parts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    parents: dict[str, str] = {}
    for name in files.names:
        if name != files.main and not name.endswith(".json"):
            continue
        try:
            value = read_json(files.read(name), name)
        except UnusableError as error:
            refuse(parsed, error.defect)
            continue
        for record in value if isinstance(value, list) else [value]:
            try:
                _sort_in(object_of(record), infos, parts, parents)
            except UnusableError as error:
                refuse(parsed, error.defect)
    sessions: dict[str, _Session] = {}
    for info in sorted(infos.values(), key=_time_and_id):
        identity = string_of(info.get("sessionID"))
        session = sessions.setdefault(identity, _Session(parent=parents.get(identity, "")))
        session.messages.append((info, parts.pop(string_of(info.get("id")), [])))
    for identity in parts:
        message = f"{identity}: parts of a message that is not here"
        refuse(parsed, Defect(RejectReason.BAD_RECORD, message))
    return sessions


def _sort_in(
    record: dict[str, Any],
    infos: dict[str, dict[str, Any]],
    parts: dict[str, list[dict[str, Any]]],
    parents: dict[str, str],
) -> None:
    """One record of any layout to where it belongs; a record of something else is passed over."""
    for item in list_of(record.get("messages")):  # an export; its parts are in order
        info = object_of(object_of(item).get("info"))
        infos[string_of(info.get("id"))] = info
        parts[string_of(info.get("id"))] += map(object_of, list_of(object_of(item).get("parts")))
    if "messages" in record:
        record = object_of(record.get("info"))
    record = _row(record)
    identity = string_of(record.get("id"))
    parent = string_of(record.get("parentID") or record.get("parent_id"))
    if "messageID" in record:
        parts[string_of(record["messageID"])].append(record)
    elif "role" in record:
        infos[identity] = record
    elif parent:
        parents[identity] = parent


def _row(record: dict[str, Any]) -> dict[str, Any]:
    """A row of the database: its `data` with the columns under the names of the storage."""
    data = record.get("data")
    if isinstance(data, str):
        data = read_json(data.encode("utf-8", "surrogatepass"), "data")
    if not isinstance(data, dict):
        return record
    columns = {"id": "id", "session_id": "sessionID", "message_id": "messageID"}
    named = {ours: record[column] for column, ours in columns.items() if column in record}
    return data | named


def _time_and_id(info: dict[str, Any]) -> tuple[float, str]:
    created = object_of(info.get("time")).get("created")
    return (created if isinstance(created, int | float) else 0.0, string_of(info.get("id")))


def _windows(session: _Session) -> list[list[_Entry]]:
    """The messages of a session, split where its context was compacted."""
    windows: list[list[_Entry]] = [[]]
    for info, parts in session.messages:
        if any(part.get("type") == "compaction" for part in parts):
            windows.append([])
        windows[-1].append((info, parts))
    return windows


def _messages(window: list[_Entry], counts: Counter[str]) -> list[Message]:
    messages: list[Message] = []
    for info, parts in window:
        if info.get("role") == "user":
            text = PART_SEPARATOR.join(filter(None, (_user_text(part, counts) for part in parts)))
            if text.strip():
                messages.append(Message("user", text))
            continue
        # What was broken off, and a summary, which another prompt asked for, are context.
        weight = 0.0 if info.get("error") or info.get("summary") is True else 1.0
        for step in _steps(parts):
            messages += _turns(step, weight, counts)
    return messages


def _user_text(part: dict[str, Any], counts: Counter[str]) -> str:
    if part.get("type") == "text" and part.get("ignored") is not True:
        return string_of(part.get("text"))
    if part.get("type") == "compaction":
        return _COMPACTION_PROMPT
    if part.get("type") == "file" and string_of(part.get("mime")).startswith("image/"):
        counts["images"] += 1
        return IMAGE_PLACEHOLDER
    return ""


def _steps(parts: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The parts of each model call: one message is one call, or several in older storage."""
    steps: list[list[dict[str, Any]]] = [[]]
    for part in parts:
        if part.get("type") == "step-start":
            steps.append([])
        else:
            steps[-1].append(part)
    return [step for step in steps if any(p.get("type") in _SAID for p in step)]


def _turns(step: list[dict[str, Any]], weight: float, counts: Counter[str]) -> list[Message]:
    """The reply of one model call and the results of its calls."""
    reply = Message("assistant", "", weight=weight)
    results: list[Message] = []
    texts: list[str] = []
    thoughts: list[str] = []
    for part in step:
        if part.get("type") == "text":
            texts.append(string_of(part.get("text")))
        elif part.get("type") == "reasoning":
            thoughts.append(string_of(part.get("text")))
        elif part.get("type") == "tool":
            state = object_of(part.get("state"))
            call = call_of(part.get("callID"), part.get("tool"), state.get("input"))
            reply.tool_calls.append(call)
            is_error = state.get("status") != "completed"
            text = string_of(state.get("error") if is_error else state.get("output"))
            if state.get("status") in _NO_RESULT:
                counts["interrupted_calls"] += 1
                reply.weight, text = 0.0, _INTERRUPTED
            results.append(Message("tool", text, tool_call_id=call.id, is_error=is_error))
    reply.content = PART_SEPARATOR.join(filter(None, texts))
    reply.reasoning_content = "\n\n".join(filter(None, thoughts))
    if not (reply.content.strip() or reply.tool_calls):
        counts["empty_steps"] += 1
        return []
    return [reply, *results]


def _usage(replies: list[dict[str, Any]]) -> dict[str, Any]:
    """Tokens and cost over all replies."""
    total: Counter[str] = Counter()
    for info in replies:
        for key, value in object_of(info.get("tokens")).items():
            if isinstance(value, int):
                total[key] += value
        if isinstance(info.get("cost"), int | float):
            total["cost"] += info["cost"]
    return dict(total)
