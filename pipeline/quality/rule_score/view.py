"""A trajectory as the rule score sees it: turns, their calls, and what each call came back with.

Scaffolds name the same tool differently and Terminus-2 has none, so calls are brought into one
form: tool names by their declared parameters, Terminus-2 commands as calls of the program they
start. Source: the reference's rule score (TQS V2).
"""

import functools
import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.quality.rule_score.names import ScoredScaffold, canonical_names, detect_scaffold
from pipeline.quality.rule_score.replies import read_reply, submits
from pipeline.quality.rule_score.shell import (
    edit_targets,
    is_formal_test,
    is_verification,
    normalize_path,
)
from pipeline.quality.rule_score.text import is_error
from pipeline.trajectory import Message, ToolCall, Trajectory

CallClass = Literal["read", "write", "bash", "search", "submit", "think", "other"]

_EXECUTION_NAMES = frozenset(
    "bash terminal execute_bash shell cmd execute_ipython_cell run_ipython ipython python "
    "run_python".split()
)
_EDITOR_NAMES = frozenset(("file_editor", "str_replace_editor"))
_EDITOR_WRITES = frozenset(("str_replace", "create", "insert"))
_EDITOR_COMMANDS = _EDITOR_WRITES | {"view", "undo_edit"}
_EDIT_NAMES = frozenset("edit write multiedit notebookedit patch".split())
_EDITOR_KEYS = frozenset("old_str new_str file_text view_range insert_line".split())
_NOTE_KEYS = frozenset("task_list thought task_completed".split())
_PATH_KEYS = ("file_path", "filePath", "path", "notebook_path", "notebookPath")
_COMMAND_KEYS = ("command", "code", "cmd", "keystrokes")
_PATCHED = re.compile(r"^\*\*\* (?:Update|Add) File: (\S.*)$", re.MULTILINE)
_CLASSES: dict[str, CallClass] = {
    "think": "think",
    "finish": "submit",
    **dict.fromkeys(("bash", "terminal", "execute_bash"), "bash"),
    **dict.fromkeys(("grep", "glob", "search", "find", "websearch"), "search"),
    **dict.fromkeys(("read", "webfetch"), "read"),
    **dict.fromkeys(_EDIT_NAMES, "write"),
}


@dataclass(eq=False)
class Call:
    """One tool call, or one command of a Terminus-2 reply."""

    name: str
    """Canonical and lower-case; of a command the program, without its directory."""
    arguments: dict[str, Any]
    turn: int
    """0-based number of the assistant turn."""
    is_execution: bool
    command: str
    """What an execution runs, else ""."""
    patched: list[str] = field(default_factory=list)
    """Files that a patch among its arguments names (extended view only)."""
    observation: "Observation | None" = None

    @functools.cached_property
    def path(self) -> str:
        """The file argument, normalised; "" if none."""
        value = next((self.arguments[key] for key in _PATH_KEYS if self.arguments.get(key)), "")
        return normalize_path(value) if isinstance(value, str) and value else ""

    @functools.cached_property
    def shell_targets(self) -> list[str]:
        """Files that its command writes."""
        return list(edit_targets(self.command)) if self.is_execution else []

    @functools.cached_property
    def is_write_tool(self) -> bool:
        """Whether it is a call of an editing tool."""
        if self.name in _EDITOR_NAMES:
            return self.editor_command in _EDITOR_WRITES
        return self.name in _EDIT_NAMES and "keystrokes" not in self.arguments

    @property
    def edited(self) -> list[str]:
        """Paths it writes, as often as it writes them."""
        if self.is_write_tool:
            return [self.path] if self.path else []
        return self.patched or self.shell_targets

    @property
    def targets(self) -> list[str]:
        """Paths it is about, whether it writes or only reads them."""
        return [self.path] if self.path else self.patched or self.shell_targets

    @functools.cached_property
    def is_formal_test(self) -> bool:
        return self.is_execution and is_formal_test(self.command)

    @functools.cached_property
    def is_verification(self) -> bool:
        return self.is_execution and is_verification(self.command)

    @property
    def editor_command(self) -> str:
        """Sub-command of an editor tool, else ""."""
        return str(self.arguments.get("command", "")) if self.name in _EDITOR_NAMES else ""

    @property
    def kind(self) -> CallClass:
        if self.name in _EDITOR_NAMES:
            return "write" if self.editor_command in _EDITOR_WRITES else "read"
        return _CLASSES.get(self.name) or ("bash" if self.is_execution else "other")

    @property
    def wrote(self) -> bool:
        """Whether it edited something, and its result says nothing against it."""
        is_edit = self.is_write_tool or bool(self.patched or self.shell_targets)
        return is_edit and self.observation is not None and not self.observation.is_error


@dataclass(eq=False)
class Observation:
    """What one call, or all commands of a Terminus-2 reply, came back with."""

    content: str
    turn: int
    """The assistant turn that it follows."""
    call: Call | None
    is_error: bool


@dataclass(eq=False)
class Turn:
    """One assistant turn. Its number is its place in `View.turns`."""

    message: Message
    calls: list[Call] = field(default_factory=list)
    is_complete: bool = False
    """Without tools: the reply says that the task is done."""


@dataclass(eq=False)
class View:
    """All of it, in order."""

    scaffold: ScoredScaffold
    turns: list[Turn] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    last: Message | None = None
    extended: bool = False

    @functools.cached_property
    def calls(self) -> list[Call]:
        return [call for turn in self.turns for call in turn.calls if call.name]

    @property
    def is_openhands(self) -> bool:
        return self.scaffold in ("openhands", "openhands_sdk")

    @property
    def ends_with_text(self) -> bool:
        """Whether the last message is the model's and calls nothing."""
        return self.last is not None and self.last.role == "assistant" and not self.last.tool_calls

    @property
    def ends_with_finish(self) -> bool:
        """Whether the last turn calls the tool that ends the task, where one is known."""
        knows_finish = self.is_openhands or self.extended
        last = self.turns[-1].calls if self.turns and knows_finish else []
        return any(call.name == "finish" for call in last)


def view_of(trajectory: Trajectory, *, extended: bool = False) -> View:
    """Read a trajectory.

    Not `extended`, it sees what the reference sees: the k-th result belongs to the k-th call.
    Extended: results are found by `tool_call_id` where there is one, the client's error flag
    counts as an error, patches in the `*** Update File:` form are edits, commands in fenced blocks
    are calls, and what submits the work (SWE-agent) is a finish.
    """
    renamed = canonical_names(trajectory.tools)
    if not renamed:  # session files declare none: what is called stands for it
        calls = [call for message in trajectory.messages for call in message.tool_calls]
        renamed = {call.name: call.name for call in calls if call.name}
    view = View(detect_scaffold(trajectory.messages, set(renamed.values())), extended=extended)
    if trajectory.messages:
        view.last = trajectory.messages[-1]
    if view.scaffold == "terminus2":
        _read_replies(view, trajectory.messages, extended)
    else:
        _read_tool_calls(view, trajectory.messages, renamed, extended)
    return view


def _read_tool_calls(
    view: View, messages: list[Message], renamed: dict[str, str], extended: bool
) -> None:
    position = 0
    for message in messages:
        if message.role == "assistant":
            number = len(view.turns)
            calls = [_tool_call(call, renamed, number) for call in message.tool_calls]
            for call in calls if extended else ():
                call.patched = _patched_files(call.arguments)
                if call.name == "submit" or submits(call.command):
                    call.name = "finish"
            view.turns.append(Turn(message, calls))
            position = 0
        elif message.role == "tool":
            call = _called(view, message, position, extended)
            position += 1
            error = is_error(
                message.content,
                is_test=call is not None and call.is_formal_test,
                is_execution=call is not None and call.is_execution,
            ) or (extended and message.is_error)
            result = Observation(message.content, len(view.turns) - 1, call, error)
            view.observations.append(result)
            if call and call.observation is None:
                call.observation = result


def _called(view: View, result: Message, position: int, extended: bool) -> Call | None:
    if not view.turns:
        return None
    turn = view.turns[-1]
    if extended and result.tool_call_id:
        pairs = zip(turn.message.tool_calls, turn.calls, strict=True)
        found = next((call for raw, call in pairs if raw.id == result.tool_call_id), None)
        if found:
            return found
    return turn.calls[position] if position < len(turn.calls) else None


def _tool_call(call: ToolCall, renamed: dict[str, str], turn: int) -> Call:
    name = renamed.get(call.name, call.name).lower()
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        arguments = {}
    if not isinstance(arguments, dict):
        arguments = {}
    is_execution = _is_execution(name, arguments)
    command = _first_text(arguments, _COMMAND_KEYS) if is_execution else ""
    return Call(name, arguments, turn, is_execution, command)


def _patched_files(arguments: dict[str, Any]) -> list[str]:
    texts = (value for value in arguments.values() if isinstance(value, str))
    return [normalize_path(match[1]) for text in texts for match in _PATCHED.finditer(text)]


def _is_execution(name: str, arguments: dict[str, Any]) -> bool:
    command = arguments.get("command")
    if isinstance(command, str) and command in _EDITOR_COMMANDS:
        return False
    if arguments.keys() & (_EDITOR_KEYS | _NOTE_KEYS):
        return False
    return bool(_first_text(arguments, ("command", "cmd", "keystrokes"))) or (
        name in _EXECUTION_NAMES
    )


def _first_text(arguments: dict[str, Any], keys: tuple[str, ...]) -> str:
    values = (arguments.get(key) for key in keys)
    return next((value for value in values if isinstance(value, str) and value.strip()), "")


def _read_replies(view: View, messages: list[Message], extended: bool) -> None:
    for before, message in zip([None, *messages], messages, strict=False):
        if message.role == "assistant":
            view.turns.append(_reply_turn(message, len(view.turns), extended))
        elif message.role == "user" and before is not None and before.role == "assistant":
            calls = view.turns[-1].calls
            is_test = any(call.is_formal_test for call in calls)
            error = is_error(message.content, is_test=is_test, is_execution=True)
            last = calls[-1] if calls else None
            result = Observation(message.content, len(view.turns) - 1, last, error)
            view.observations.append(result)
            for call in calls:
                call.observation = result


def _reply_turn(message: Message, number: int, extended: bool) -> Turn:
    reply = read_reply(message.content, extended=extended)
    turn = Turn(message, is_complete=reply.is_complete)
    for command in reply.commands:
        program = command.split()[0].rsplit("/", 1)[-1]
        turn.calls.append(Call(program, {"keystrokes": command}, number, True, command))
    return turn
