"""Conversations that hold a compaction of their own context, split where the model saw it.

An agent whose context is full goes on with a summary in place of the history. Every parser of
STEP 0 makes a conversation of its own of what follows, so its rows hold no such place; rows from
elsewhere may hold all windows one after the other. There, a turn behind a summary was generated
without the history before it:

    system, u1, a1, u2, a2, SUMMARY, a3, u4, a4   ->   system, u1, a1, u2, a2
                                                       system, SUMMARY, a3, u4, a4
"""

import json
from typing import Any

_SUMMARIES = (
    "This session is being continued from a previous conversation",  # Claude Code
    "Another language model started to solve this problem and produced a summary",  # Codex
    "The conversation history before this point was compacted into the following summary:",  # pi
    "<state_snapshot>",  # Gemini CLI
)
"""How the message begins that agents put in the place of the history."""


def split_at_compaction(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The windows of one row (see `Dataset.canonical`), each a row with its system turn and tools.

    The first turn of the user begins no second window, whatever it says.
    """
    key, role, content = ("conversations", "from", "value")
    if "messages" in row:
        key, role, content = ("messages", "role", "content")
    turns = row[key]
    system = turns[:1] if turns and turns[0][role] == "system" else []
    windows: list[list[dict[str, Any]]] = [[]]
    for turn in turns[len(system) :]:
        opening = _opening(turn, role, content) if windows[-1] else None
        if opening is not None:
            windows.append([])
        windows[-1].append(opening or turn)
    return [{**row, key: system + window} for window in windows]


def _opening(turn: dict[str, Any], role: str, content: str) -> dict[str, Any] | None:
    """The turn as a window begins with it; None: it holds no summary."""
    if turn.get("messages") is None:
        is_summary = turn[role] in ("human", "user") and _is_summary(turn[content])
        return turn if is_summary else None
    try:
        messages = json.loads(turn["messages"])
    except (TypeError, ValueError):
        return None  # reading the row says what is wrong with it
    kept = []  # what answers a call belongs to the window before
    for message in messages:
        kept = [] if message["role"] == "tool" else [*kept, message]
    if not any(message["role"] == "user" and _is_summary(message["content"]) for message in kept):
        return None
    text = "\n\n".join(message["content"] for message in kept)
    return {"from": "human", "value": text, "messages": json.dumps(kept)}


def _is_summary(text: Any) -> bool:
    return isinstance(text, str) and text.startswith(_SUMMARIES)
