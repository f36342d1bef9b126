"""The commands in a reply that calls no tools, for the rule score.

Terminus-2 replies are JSON; SWE-agent's and mini-SWE-agent's text modes put one command into a
fenced block. The reference knows the first only.
"""

import json
import re
from dataclasses import dataclass, field

from pipeline.quality.rule_score.text import strip_think

_FENCED = re.compile(r"^```(?:bash|sh|shell|mswea_bash_command)?[ \t]*\n(.*?)^```", re.M | re.S)
_SUBMITS = re.compile(r"^\s*submit\b|COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a reply asks for."""

    commands: list[str] = field(default_factory=list)
    is_complete: bool = False
    """It says that the task is done."""


def read_reply(content: str, *, extended: bool) -> Reply:
    """The commands of a Terminus-2 reply and, if `extended`, of fenced blocks."""
    try:
        reply = json.loads(strip_think(content))
    except (ValueError, RecursionError):
        reply = None
    if isinstance(reply, dict):
        entries = reply.get("commands")
        entries = entries if isinstance(entries, list) else []
        keystrokes = [entry.get("keystrokes") for entry in entries if isinstance(entry, dict)]
        commands = [text for text in keystrokes if isinstance(text, str) and text.strip()]
        return Reply(commands, reply.get("task_complete") is True)
    if not extended:
        return Reply()
    commands = [match[1] for match in _FENCED.finditer(content) if match[1].strip()]
    return Reply(commands, any(submits(command) for command in commands))


def submits(command: str) -> bool:
    """Whether a command is how these agents hand in their work."""
    return _SUBMITS.search(command) is not None
