"""How each agent works on a bug, and how its proxy or harness writes that down.

`work` gives the steps of a run; `claude_code`, `open_code`, `openhands_sdk` and `terminus2` turn
them into the lines of a raw file. All prompts and texts are our own.
"""

import json
from dataclasses import dataclass
from typing import Any

from bugs import Bug

Json = dict[str, Any]
MODEL = "example-model-1"
_EPOCH_MS = 1_767_312_000_000  # 2026-01-02T00:00:00Z


@dataclass(frozen=True)
class Step:
    """One assistant turn: what it thinks, says and does, and what comes back."""

    reasoning: str
    text: str
    actions: tuple[tuple[str, ...], ...] = ()
    """("run", command, output) | ("read", path, source) | ("edit", path, before, after)"""


_PLANS = (
    ("reproduce", "read", "edit", "verify"),
    ("look", "read", "edit", "verify"),
    ("read", "edit"),
    ("look", "reproduce", "read", "edit", "verify", "diff"),
    ("reproduce and read", "edit", "verify"),
)


def work(bug: Bug, variant: int, *, solves: bool = True) -> list[Step]:
    """The steps of one run; `variant` chooses how thorough the agent is. One that does not solve
    the task gives up before the first edit."""
    listing = f"{bug.path}\n{bug.path.replace('/', '/test_')}\nREADME.md"
    reproduce = ("run", bug.test, bug.failure)
    read = ("read", bug.path, bug.source)
    doubt = "Before I change anything I want to see the failure with my own eyes."
    known = {
        "look": Step(
            f"The issue points at {bug.path.split('/')[0]}. First I look at the files.",
            "",
            (("run", "git ls-files | head", listing),),
        ),
        "reproduce": Step(doubt, "Let me reproduce it.", (reproduce,)),
        "reproduce and read": Step(doubt, "Let me reproduce it.", (reproduce, read)),
        "read": Step(f"So {bug.symptom}. The code is in {bug.path}.", "Now the source.", (read,)),
        "edit": Step(
            f"I see: {bug.cause}. One line has to change.",
            f"The cause: {bug.cause}.",
            (("edit", bug.path, bug.before, bug.after),),
        ),
        "verify": Step(
            "The change is small. The same tests must pass now.",
            "",
            (("run", bug.test, bug.success),),
        ),
        "diff": Step(
            "A last look at the diff, so that nothing else slipped in.",
            "",
            (("run", "git diff -U0", f"-{bug.before}+{bug.after}"),),
        ),
    }
    plan = _PLANS[variant % len(_PLANS)]
    if not solves:
        looked = plan[: plan.index("edit")]
        last = f"I have looked at {bug.path} and see nothing wrong in it. I changed nothing."
        return [*(known[kind] for kind in looked), Step("This may be meant so.", last)]
    proof = "The tests pass." if "verify" in plan else "I did not run the tests."
    last = f"Fixed: {bug.cause}. I changed one line in {bug.path}. {proof}"
    return [*(known[kind] for kind in plan), Step(f"Nothing is left to do. {proof}", last)]


def _tool(name: str, description: str, *parameters: str) -> Json:
    schema = {
        "type": "object",
        "properties": {parameter: {"type": "string"} for parameter in parameters},
        "required": list(parameters),
    }
    return {"name": name, "description": description, "parameters": schema}


def _openai(tools: list[Json]) -> list[Json]:
    return [{"type": "function", "function": tool} for tool in tools]


def lines(records: list[Json]) -> str:
    """The records as a proxy's log: JSON, one per line."""
    return "".join(
        json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n" for record in records
    )


_CLAUDE_TOOLS = [
    _tool("Bash", "Run a shell command.", "command"),
    _tool("Read", "Read a file.", "file_path"),
    _tool("Edit", "Replace text in a file.", "file_path", "old_string", "new_string"),
]


def claude_code(bug: Bug, variant: int, *, solves: bool = True) -> str:
    """Anthropic dialect: a warm-up call, thinking dropped from the history, text beside results.

    With even variants the proxy's two hooks have both logged every call.
    """
    system = [
        {"type": "text", "text": "You are Claude Code, an agent for the command line."},
        {"type": "text", "text": "Work in /testbed. Fix what the user reports, then stop."},
    ]
    tools = [
        {"name": t["name"], "description": t["description"], "input_schema": t["parameters"]}
        for t in _CLAUDE_TOOLS
    ]
    reminder = "<system-reminder>Keep the change small.</system-reminder>"
    messages: list[Json] = [
        {
            "role": "user",
            "content": [{"type": "text", "text": reminder}, {"type": "text", "text": bug.issue}],
        }
    ]
    warm_up = [{"role": "user", "content": [{"type": "text", "text": "Warmup"}]}]
    calls = [(warm_up, [], [{"type": "text", "text": "I am ready to help."}])]
    for number, step in enumerate(work(bug, variant, solves=solves)):
        blocks: list[Json] = [{"type": "thinking", "thinking": step.reasoning, "signature": ""}]
        if step.text:
            blocks.append({"type": "text", "text": step.text})
        results: list[Json] = []
        for index, action in enumerate(step.actions):
            identity = f"toolu_{number:02d}{index}"
            name, arguments, result = _claude_call(action)
            blocks.append({"type": "tool_use", "id": identity, "name": name, "input": arguments})
            results.append({"type": "tool_result", "tool_use_id": identity, "content": result})
        calls.append((list(messages), tools, blocks))
        sent_back = [block for block in blocks if block["type"] != "thinking"]
        messages.append({"role": "assistant", "content": sent_back})
        if number == 1:
            results.append({"type": "text", "text": reminder})
        messages.append({"role": "user", "content": results})
    records = []
    for number, (history, call_tools, blocks) in enumerate(calls):
        for copy in range(1 + (variant + 1) % 2):
            body = {"messages": history, "system": system, "tools": call_tools, "model": MODEL}
            records.append(
                {
                    "session_id": bug.instance_id,
                    "biz_id": "",
                    "request_time": _EPOCH_MS + 9000 * number + 3 * copy,
                    "request_body": body | {"max_tokens": 32000, "metadata": {}},
                    "response_body": {"content": blocks},
                }
            )
    return lines(records)


def _claude_call(action: tuple[str, ...]) -> tuple[str, Json, str]:
    if action[0] == "run":
        return "Bash", {"command": action[1]}, action[2]
    if action[0] == "read":
        return "Read", {"file_path": f"/testbed/{action[1]}"}, action[2]
    arguments = {
        "file_path": f"/testbed/{action[1]}",
        "old_string": action[2],
        "new_string": action[3],
    }
    return "Edit", arguments, f"The file /testbed/{action[1]} has been updated."


def _openai_record(number: int, messages: list[Json], tools: list[Json], message: Json) -> Json:
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    choice = {"index": 0, "finish_reason": finish, "message": message}
    return {
        "session_id": "default",
        "success": True,
        "request_time": _EPOCH_MS + 7000 * number,
        "timestamp": f"2026-01-02T00:{number:02d}:00.000",
        "duration_ms": 4000,
        "request_body": {"model": MODEL, "temperature": 0.7, "messages": messages, "tools": tools},
        "response_body": {"object": "chat.completion", "model": MODEL, "choices": [choice]},
        "usage": {"prompt_tokens": 900 + 80 * number, "completion_tokens": 60},
    }


def _openai_call(identity: str, name: str, arguments: Json) -> Json:
    text = json.dumps(arguments, ensure_ascii=False)
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": text}}


_OPEN_CODE_TOOLS = _openai(
    [
        _tool("bash", "Run a command.", "command"),
        _tool("read", "Show a file.", "filePath"),
        _tool("edit", "Replace a string in a file.", "filePath", "oldString", "newString"),
    ]
)


def open_code(bug: Bug, variant: int) -> str:
    """OpenAI dialect, two system prompts, and a call that names the session."""
    messages: list[Json] = [
        {"role": "system", "content": "You are opencode, a coding agent in a terminal."},
        {"role": "system", "content": "The project is in /testbed. Answer in few words."},
        {"role": "user", "content": bug.issue},
    ]
    title = [
        {"role": "system", "content": "You are a title generator. Name the conversation."},
        {"role": "user", "content": bug.issue},
    ]
    name = {"role": "assistant", "content": f"Fix {bug.path}"}
    records = [_openai_record(0, title, [], name)]
    for number, step in enumerate(work(bug, variant), 1):
        calls = []
        results: list[Json] = []
        for index, action in enumerate(step.actions):
            identity = f"call_{number:02d}{index}"
            tool, arguments, result = _open_code_call(action)
            calls.append(_openai_call(identity, tool, arguments))
            results.append({"role": "tool", "tool_call_id": identity, "content": result})
        answer: Json = {"role": "assistant", "content": step.text or None}
        if calls:
            answer["tool_calls"] = calls
        thinking = answer | {"reasoning_content": step.reasoning}
        records.append(_openai_record(number, list(messages), _OPEN_CODE_TOOLS, thinking))
        messages += [answer, *results]
    return lines(records)


def _open_code_call(action: tuple[str, ...]) -> tuple[str, Json, str]:
    if action[0] == "run":
        return "bash", {"command": action[1]}, action[2]
    if action[0] == "read":
        return "read", {"filePath": f"/testbed/{action[1]}"}, f"<file>\n{action[2]}</file>"
    arguments = {"filePath": f"/testbed/{action[1]}", "oldString": action[2]}
    return "edit", arguments | {"newString": action[3]}, "Edit applied"


_OPENHANDS_TOOLS = _openai(
    [
        _tool("terminal", "Execute a command.", "command"),
        _tool("file_editor", "View and edit files.", "command", "path", "old_str", "new_str"),
        _tool("finish", "End the task.", "message"),
    ]
)


def openhands_sdk(bug: Bug, variant: int) -> str:
    """OpenAI dialect with text blocks, parallel calls, and `finish` as the last call."""
    messages: list[Json] = [
        {"role": "system", "content": [_text("You are an OpenHands agent. Solve the task.")]},
        {"role": "user", "content": [_text(f"The repository is in /workspace.\n\n{bug.issue}")]},
    ]
    records: list[Json] = []
    steps = work(bug, variant)
    for number, step in enumerate(steps):
        calls = []
        results: list[Json] = []
        for index, action in enumerate(step.actions):
            identity = f"chatcmpl-tool-{number:02d}{index}"
            tool, arguments, result = _openhands_call(action)
            calls.append(_openai_call(identity, tool, arguments))
            results.append(
                {
                    "role": "tool",
                    "tool_call_id": identity,
                    "name": tool,
                    "content": [_text(result)],
                }
            )
        text = step.text
        if number == len(steps) - 1:
            calls = [_openai_call("chatcmpl-tool-end", "finish", {"message": step.text})]
            text = ""
        answer: Json = {"role": "assistant", "content": [_text(text)], "tool_calls": calls}
        thinking = answer | {"content": text, "reasoning_content": step.reasoning}
        records.append(_openai_record(number, list(messages), _OPENHANDS_TOOLS, thinking))
        messages += [answer, *results]
    failed = records[1] | {"success": False, "failure": {"error_type": "RateLimitError"}}
    failed["response_body"] = {"choices": [], "error": "rate limit"}
    return lines([records[0], failed, *records[1:]])


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _openhands_call(action: tuple[str, ...]) -> tuple[str, Json, str]:
    if action[0] == "run":
        code = 1 if "FAILED" in action[2] else 0
        ending = f"\n[The command completed with exit code {code}.]"
        return "terminal", {"command": action[1]}, action[2] + ending
    path = f"/workspace/{action[1]}"
    if action[0] == "read":
        return "file_editor", {"command": "view", "path": path}, action[2]
    arguments = {"command": "str_replace", "path": path}
    arguments |= {"old_str": action[2], "new_str": action[3]}
    return "file_editor", arguments, f"The file {path} has been edited."


def terminus2(bug: Bug, variant: int) -> str:
    """ATIF: replies taken apart into analysis, plan and commands."""
    task = (
        "You control a terminal. Answer with JSON that has the keys analysis, plan and commands, "
        "each command with keystrokes and duration. Add task_complete when the task is done.\n\n"
        f"Task:\n{bug.issue}\n\nCurrent terminal state:\nagent@box:/testbed$ "
    )
    steps: list[Json] = [{"step_id": 1, "source": "user", "message": task}]
    for step in work(bug, variant):
        calls: list[Json] = []
        screen = []
        for action in step.actions:
            command, output = _terminal_command(action)
            arguments = {"keystrokes": command + "\n", "duration": 0.5}
            calls.append({"function_name": "bash_command", "arguments": arguments})
            screen.append(f"agent@box:/testbed$ {command}\n{output}")
        _append_agent_step(steps, step, calls, "\n".join(screen))
    sure = Step("The work is done, I only have to confirm.", "Yes, the task is complete.")
    _append_agent_step(steps, sure, [], "")
    document = {
        "schema_version": "ATIF-v1.5",
        "session_id": bug.instance_id,
        "agent": {"name": "terminus-2", "version": "2.0.0", "model_name": MODEL},
        "steps": steps,
        "final_metrics": {"total_prompt_tokens": 400 * len(steps)},
    }
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def _append_agent_step(steps: list[Json], step: Step, calls: list[Json], screen: str) -> None:
    plan = "Run the next command." if calls else "Finish."
    if not calls:
        calls = [{"function_name": "mark_task_complete", "arguments": {}}]
        screen = "Are you sure you want to mark the task as complete?"
    for number, call in enumerate(calls):
        call["tool_call_id"] = f"call_{len(steps)}_{number}"
    steps.append(
        {
            "step_id": len(steps) + 1,
            "timestamp": f"2026-01-02T00:{len(steps):02d}:00+00:00",
            "source": "agent",
            "model_name": MODEL,
            "message": f"Analysis: {step.text or step.reasoning}\nPlan: {plan}",
            "reasoning_content": step.reasoning,
            "tool_calls": calls,
            "observation": {"results": [{"content": f"New Terminal Output:\n\n{screen}"}]},
        }
    )


def _terminal_command(action: tuple[str, ...]) -> tuple[str, str]:
    if action[0] == "run":
        return action[1], action[2]
    if action[0] == "read":
        return f"cat {action[1]}", action[2]
    old, new = action[2].strip(), action[3].strip()
    return f"python - <<'END'\nimport pathlib\np = pathlib.Path('{action[1]}')\n" + (
        f"p.write_text(p.read_text().replace({old!r}, {new!r}))\nEND"
    ), ""
