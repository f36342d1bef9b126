"""Tool names in one form, and the scaffold that a set of tools belongs to, for the rule score.

A tool is known by its name or, if that says nothing, by the parameters that it declares. Source:
the reference's rule score (TQS V2).
"""

from typing import Any, Literal

from pipeline.trajectory import Message

ScoredScaffold = Literal["terminus2", "openhands_sdk", "openhands", "claudecode", "opencode"]

_KNOWN_NAMES = frozenset(
    "bash terminal execute_bash file_editor str_replace_editor edit write multiedit notebookedit "
    "patch finish think task_tracker".split()
)
_OPENHANDS_SDK_NAMES = frozenset("terminal file_editor task_tracker finish think".split())
_CODE_CLI_NAMES = frozenset(
    "bash read edit write glob grep task webfetch websearch notebookedit todowrite taskoutput "
    "taskstop askuserquestion skill enterplanmode exitplanmode enterworktree".split()
)


def canonical_names(tools: list[Any]) -> dict[str, str]:
    """Declared name -> canonical name. Schemas without a name are left out."""
    functions = [_function(tool) for tool in tools]
    return {name: _canonical_name(name, keys) for name, keys in functions if name}


def detect_scaffold(messages: list[Message], names: set[str]) -> ScoredScaffold:
    """Which agent wrote it, by the canonical `names` of the tools it declares."""
    if not names:
        return "terminus2"
    if names <= _OPENHANDS_SDK_NAMES:
        return "openhands_sdk"
    if {name.lower() for name in names} & _CODE_CLI_NAMES:
        prompt = next((m.content for m in messages if m.role == "system"), "")
        start = prompt[:500].lower()
        return "claudecode" if "claude code" in start or "anthropic" in start else "opencode"
    return "openhands"


def _function(tool: Any) -> tuple[str, frozenset[str]]:
    """(name, parameter names) of a tool schema; ("", none) if it is none."""
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str):
        return "", frozenset()
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    return name, frozenset(properties if isinstance(properties, dict) else ())


def _canonical_name(name: str, keys: frozenset[str]) -> str:
    if name.lower() in _KNOWN_NAMES:
        return name
    if "task_completed" in keys:
        return "finish"
    if "thought" in keys and not keys & {"command", "path"}:
        return "think"
    if "task_list" in keys:
        return "task_tracker"
    if keys & {"old_str", "new_str", "file_text", "view_range"}:
        return "str_replace_editor"
    if "command" in keys and keys & {"is_input", "timeout"}:
        return "execute_bash"
    return "str_replace_editor" if {"command", "path"} <= keys else name
