"""Harbor's own SFT export of a trajectory, derived from our conversations, and its golden files.

One row for each step of the agent: everything before it, and its reply as text. Harbor shows
system prompts and tool results as user turns.
"""

import json
from pathlib import Path

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
GOLDEN = SHARED / "harbor_golden"


def unit(directory, stem):
    """The files of one trajectory, named as in a trial, the main file first."""
    paths = sorted((GOLDEN / directory).glob(f"{stem}.trajectory*.json"))
    files = {p.name.removeprefix(f"{stem}."): p.read_bytes() for p in paths if _is_raw(p.name)}
    return {"trajectory.json": files.pop("trajectory.json")} | files


def _is_raw(name):
    return not name.endswith(("traces.json", "no_function_calling.json"))


def expected_rows(name):
    rows = json.loads((GOLDEN / f"{name}.traces.json").read_text())
    return [[(turn["role"], turn["content"]) for turn in row["conversations"]] for row in rows]


def rows_of(conversations, is_own):
    """The rows of the main agent's windows. `is_own`: whether a reply was written in this one."""
    rows = []
    for conversation in conversations:
        turns = []
        for index, message in enumerate(conversation.messages):
            if message.role != "assistant":
                turns.append(("user", message.content))
                continue
            turns.append(("assistant", _reply_text(message)))
            if is_own(conversation.messages, index):
                rows.append(list(turns))
    return rows


def _reply_text(message):
    parts = [f"<think>{message.reasoning_content}</think>"] if message.reasoning_content else []
    parts += [message.content] if message.content else []
    for call in message.tool_calls:
        value = {"name": call.name, "arguments": json.loads(call.arguments)}
        parts.append(f"<tool_call>\n{json.dumps(value)}\n</tool_call>")
    return "\n".join(parts)
