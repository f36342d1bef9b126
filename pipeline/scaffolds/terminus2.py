"""Terminus-2 (trajectory.json, Harbor's ATIF): JSON replies that drive a terminal, no tools.

    {"agent": {"name", "model_name"}, "steps": [{"source": "user|agent|system", "message",
     "reasoning_content"?, "tool_calls"?, "observation"?, "is_copied_context"?}, ...]}

The default mode stores a reply taken apart (`Analysis: ... Plan: ...` and one call per command);
the JSON that the harness expects is put together again. With `raw_content`, and for replies that
could not be parsed, `message` is the reply itself and stays verbatim. The latter are not trained,
nor is context copied from an earlier agent. A context summarisation ends the conversation: what
the model saw after it is not what stands before it.

Source: Harbor RFC 0001 (ATIF v1.5) and harbor 0.1.31 agents/terminus_2.
"""

import fnmatch
import json
from typing import Any

from pipeline.jsonl import NotJsonError, parse_json
from pipeline.rejects import Defect, RejectReason
from pipeline.scaffolds.normalize import split_think
from pipeline.scaffolds.parsed import ChainReject, Conversation, Parsed, RawFiles
from pipeline.scaffolds.peek import first_objects
from pipeline.scaffolds.validate import find_defect
from pipeline.trajectory import Message

_PARSE_ERROR = "Previous response had parsing errors"
_OTHER_WINDOWS = ("trajectory.cont-*.json", "trajectory.summarization-*.json")


class _BadStepError(Exception):
    def __init__(self, reason: RejectReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def parse(files: RawFiles) -> Parsed:
    """trajectory.json -> at most one conversation; other windows beside it are reported."""
    parsed = Parsed()
    document, steps = _read_steps(files.read(files.main), parsed)
    if steps is not None:
        _parse_steps(document, steps, parsed)
    for name in files.names:
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in _OTHER_WINDOWS):
            message = f"{name}: a context window after a summarisation"
            parsed.rejects.append(
                ChainReject(RejectReason.CONTEXT_SUMMARIZATION, message, name.split(".")[1])
            )
    return parsed


def recognises(head: bytes, name: str) -> bool:
    """Whether it is an ATIF trajectory of Terminus-2."""
    documents = first_objects(head)
    return bool(documents) and "terminus" in _agent_name(documents[0])


def _read_steps(data: bytes, parsed: Parsed) -> tuple[dict[str, Any], list[Any] | None]:
    try:
        document = parse_json(data)[0]
    except NotJsonError as error:
        message = f"not JSON, probably half-written: {error}"
        parsed.rejects.append(ChainReject(RejectReason.BAD_JSON, message))
        return {}, None
    if isinstance(document, dict) and isinstance(document.get("trajectory"), dict):
        document = document["trajectory"]
    steps = document.get("steps") if isinstance(document, dict) else None
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        message = "steps: not a list of objects; expected an ATIF trajectory"
        parsed.rejects.append(ChainReject(RejectReason.BAD_RECORD, message))
        return {}, None
    name = _agent_name(document)
    if name and "terminus" not in name:
        message = f"agent.name: not Terminus-2 (got {name}); other agents write other steps"
        parsed.rejects.append(ChainReject(RejectReason.BAD_RECORD, message))
        return {}, None
    return document, steps


def _parse_steps(document: dict[str, Any], steps: list[Any], parsed: Parsed) -> None:
    boundary = next((i for i, step in enumerate(steps) if _is_summarization(step)), len(steps))
    for number, window in enumerate([steps[:boundary], steps[boundary + 1 :]]):
        if not any(step.get("source") == "agent" for step in window):
            if number == 0:
                message = "steps: no step of the agent"
                parsed.rejects.append(ChainReject(RejectReason.NO_CALLS, message))
            continue
        chain_id = f"chain-{number}"
        defect: Defect | None = None
        messages: list[Message] = []
        if number == 1:
            where = f"steps[{boundary}]"
            defect = Defect(RejectReason.CONTEXT_SUMMARIZATION, f"{where}: context was replaced")
        else:
            try:
                messages = _conversation(window)
            except _BadStepError as error:
                defect = Defect(error.reason, str(error))
        defect = defect or find_defect(messages, [])
        if defect:
            parsed.rejects.append(ChainReject(defect.reason, defect.message, chain_id))
        else:
            parsed.conversations.append(_describe(document, window, chain_id, messages))


def _is_summarization(step: dict[str, Any]) -> bool:
    """A step of the harness in which other agents wrote what the next prompt starts from."""
    text = _text(step.get("message")).lower()
    return step.get("source") == "system" and "context summarization" in text


def _describe(
    document: dict[str, Any], steps: list[Any], chain_id: str, messages: list[Message]
) -> Conversation:
    agent = _object(document.get("agent"))
    extra = _object(agent.get("extra"))
    times = [step["timestamp"] for step in steps if isinstance(step.get("timestamp"), str)]
    return Conversation(
        chain_id=chain_id,
        messages=messages,
        tools=[],
        model=str(agent.get("model_name") or ""),
        generated_on=times[-1][:10] if times else "",
        gen_params={key: extra[key] for key in ("temperature",) if key in extra},
        usage=_object(document.get("final_metrics")),
    )


def _agent_name(document: dict[str, Any]) -> str:
    return str(_object(document.get("agent")).get("name") or "").lower()


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _conversation(steps: list[dict[str, Any]]) -> list[Message]:
    messages: list[Message] = []
    for index, step in enumerate(steps):
        source = step.get("source")
        where = f"steps[{index}]"
        if source == "agent":
            messages += _agent_turn(step, where)
        elif source == "user" or (source == "system" and not messages):
            text = _text(step.get("message"))
            if text.strip():
                messages.append(Message("user" if source == "user" else "system", text))
        else:
            what = f"{where}.source: cannot represent {source!r} here"
            raise _BadStepError(RejectReason.UNSUPPORTED_CONTENT, what)
    # The screen after the last reply has no reply to it.
    while messages and messages[-1].role == "user":
        messages.pop()
    return messages


def _agent_turn(step: dict[str, Any], where: str) -> list[Message]:
    observation = _observation(step.get("observation"))
    message = _text(step.get("message"))
    calls = step.get("tool_calls") or []
    if not isinstance(calls, list):
        raise _BadStepError(RejectReason.BAD_RECORD, f"{where}.tool_calls: not a list")
    is_refused = observation.startswith(_PARSE_ERROR)
    reasoning = step.get("reasoning_content") or step.get("raw_reasoning_content")
    reasoning = reasoning if isinstance(reasoning, str) else ""
    if calls or (message.startswith(("Analysis:", "Plan:")) and not is_refused):
        reply = _reply_json(message, calls, where)
    elif reasoning:
        reply = message
    else:
        reasoning, reply = split_think(message)
    is_context = step.get("is_copied_context") is True or step.get("llm_call_count") == 0
    turn = Message(
        "assistant", reply, reasoning.strip(), weight=0.0 if is_refused or is_context else 1.0
    )
    return [turn, Message("user", observation)] if observation.strip() else [turn]


def _text(value: Any) -> str:
    """A string, or the text of a list of parts (ATIF 1.6)."""
    if isinstance(value, list):
        return "\n".join(_text(part.get("text")) for part in value if isinstance(part, dict))
    return value if isinstance(value, str) else ""


def _observation(value: Any) -> str:
    results = _object(value).get("results")
    results = results if isinstance(results, list) else []
    texts = [_text(_object(item).get("content")) for item in results]
    return "\n".join(text for text in texts if text)


def _reply_json(message: str, calls: list[Any], where: str) -> str:
    """The reply as the harness demands it of the model."""
    analysis, plan = _split_reply(message)
    commands: list[dict[str, Any]] = []
    is_complete = False
    for number, call in enumerate(calls):
        call = _object(call)
        place = f"{where}.tool_calls[{number}]"
        if call.get("function_name") == "mark_task_complete":
            is_complete = True
        elif call.get("function_name") == "bash_command":
            commands.append(_command(call.get("arguments"), place))
        else:
            what = f"{place}.function_name: not a call of Terminus-2"
            raise _BadStepError(RejectReason.UNSUPPORTED_CONTENT, what)
    reply: dict[str, Any] = {"analysis": analysis, "plan": plan, "commands": commands}
    if is_complete:
        reply["task_complete"] = True
    return json.dumps(reply, ensure_ascii=False, indent=2)


def _command(arguments: Any, place: str) -> dict[str, Any]:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = None
    keystrokes = arguments.get("keystrokes") if isinstance(arguments, dict) else None
    if not isinstance(keystrokes, str):
        what = f"{place}.arguments: no keystrokes (got {str(arguments)[:60]})"
        raise _BadStepError(RejectReason.BAD_ARGUMENTS, what)
    command: dict[str, Any] = {"keystrokes": keystrokes}
    if "duration" in arguments:
        command["duration"] = arguments["duration"]
    return command


def _split_reply(message: str) -> tuple[str, str]:
    """(analysis, plan) of `Analysis: ...\\nPlan: ...`; text in no such form is all analysis."""
    if message.startswith("Plan:"):
        return "", message.removeprefix("Plan:").strip()
    text = message.removeprefix("Analysis:")
    analysis, mark, plan = text.partition("\nPlan:")
    if not mark:
        analysis, _, plan = text.partition("Plan:")
    return analysis.strip(), plan.strip()
