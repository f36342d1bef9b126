"""What a Terminus-2 agent wrote, put together again from what Harbor made of it.

    message "Analysis: a\\nPlan: p", one call `bash_command` per command, `mark_task_complete`
    ->  {"analysis": "a", "plan": "p", "commands": [{"keystrokes", "duration"}],
         "task_complete": true}

or, where the agent's parser is `xml`, the <response> that this parser asks for. A reply that was
stored as it is (`raw_content`, or one that could not be parsed) needs none of this.

Source: https://github.com/laude-institute/harbor src/harbor/agents/terminus_2.
"""

import json
from typing import Any

from pipeline.rejects import RejectReason
from pipeline.scaffolds.assembly import UnusableError, object_of

Reply = dict[str, Any]


def render_reply(message: str, calls: list[Any], parser: str, where: str) -> str:
    """The reply in the form that the harness demands of the model.

    `parser`: `agent.extra.parser` of the file; anything but "xml" means JSON.
    Raises: UnusableError: a call that is none of Terminus-2.
    """
    reply = _reply(message, calls, where)
    return _xml(reply) if parser == "xml" else json.dumps(reply, ensure_ascii=False, indent=2)


def _reply(message: str, calls: list[Any], where: str) -> Reply:
    analysis, plan = _split(message)
    commands: list[dict[str, Any]] = []
    is_complete = False
    for number, call in enumerate(calls):
        call = object_of(call)
        place = f"{where}.tool_calls[{number}]"
        if call.get("function_name") == "mark_task_complete":
            is_complete = True
        elif call.get("function_name") == "bash_command":
            commands.append(_command(call.get("arguments"), place))
        else:
            what = f"{place}.function_name: not a call of Terminus-2"
            raise UnusableError(RejectReason.UNSUPPORTED_CONTENT, what)
    reply: Reply = {"analysis": analysis, "plan": plan, "commands": commands}
    if is_complete:
        reply["task_complete"] = True
    return reply


def _command(arguments: Any, place: str) -> dict[str, Any]:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    keystrokes = arguments.get("keystrokes") if isinstance(arguments, dict) else None
    if not isinstance(keystrokes, str):
        what = f"{place}.arguments: no keystrokes (got {str(arguments)[:60]})"
        raise UnusableError(RejectReason.BAD_ARGUMENTS, what)
    command: dict[str, Any] = {"keystrokes": keystrokes}
    if "duration" in arguments:
        command["duration"] = arguments["duration"]
    return command


def _split(message: str) -> tuple[str, str]:
    """(analysis, plan) of `Analysis: ...\\nPlan: ...`; text in no such form is all analysis."""
    if message.startswith("Plan:"):
        return "", message.removeprefix("Plan:").strip()
    text = message.removeprefix("Analysis:")
    analysis, mark, plan = text.partition("\nPlan:")
    if not mark:
        analysis, _, plan = text.partition("Plan:")
    return analysis.strip(), plan.strip()


def _xml(reply: Reply) -> str:
    # Not escaped: the harness takes what stands between the tags as it is.
    lines = ["<response>"]
    for key in ("analysis", "plan"):
        lines += [f"<{key}>", reply[key], f"</{key}>"]
    lines.append("<commands>")
    for command in reply["commands"]:
        duration = f' duration="{command["duration"]}"' if "duration" in command else ""
        lines.append(f"<keystrokes{duration}>{command['keystrokes']}</keystrokes>")
    lines.append("</commands>")
    if reply.get("task_complete"):
        lines.append("<task_complete>true</task_complete>")
    return "\n".join([*lines, "</response>"])
