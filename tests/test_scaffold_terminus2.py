"""Terminus-2 trajectories become the JSON replies that the harness demands, and nothing else.

Run: pytest tests/test_scaffold_terminus2.py
"""

import json

import pytest

from pipeline.scaffolds import SCAFFOLDS, detect
from pipeline.scaffolds.parsed import MemoryFiles

TASK = {"source": "user", "message": "Task: make a.txt"}
SUMMARIZED = {"source": "system", "message": "Performed context summarization and handoff."}


def agent(message, calls=None, screen="$ ", **extra):
    step = {"source": "agent", "message": message, **extra}
    if calls is not None:
        step["tool_calls"] = calls
    return step | {"observation": {"results": [{"content": screen}]}}


def bash(**arguments):
    return {"function_name": "bash_command", "arguments": arguments}


def parse(*steps, siblings=(), **document):
    data = json.dumps({"agent": {"name": "terminus-2"}, "steps": list(steps)} | document)
    files = {"trajectory.json": data.encode()} | dict.fromkeys(siblings, b"")
    return SCAFFOLDS["terminus2"].parse(MemoryFiles(files))


def replies(parsed):
    (conversation,) = parsed.conversations
    return [m for m in conversation.messages if m.role == "assistant"]


def reasons(parsed):
    return [reject.reason.value for reject in parsed.rejects]


def test_parsed_reply_is_put_together_again():
    step = agent(
        "Analysis: empty\nPlan: create\nit",
        [bash(keystrokes="touch a\n", duration=0.1), {"function_name": "mark_task_complete"}],
        reasoning_content=" hm \n",
    )
    (reply,) = replies(parse(TASK, step))
    assert reply.content == (
        '{\n  "analysis": "empty",\n  "plan": "create\\nit",\n  "commands": [\n    {\n'
        '      "keystrokes": "touch a\\n",\n      "duration": 0.1\n    }\n  ],\n'
        '  "task_complete": true\n}'
    )
    assert (reply.reasoning_content, reply.weight) == ("hm", 1.0)


def test_raw_reply_is_verbatim_also_with_inline_thinking():
    raw = '{"analysis": "a", "plan": "p", "commands": []}'
    first, second = replies(parse(TASK, agent(raw), agent(f"<think>\nt\n</think>\n\n{raw}")))
    assert first.content == second.content == raw
    assert second.reasoning_content == "t"


def test_reply_that_could_not_be_parsed_is_verbatim_and_not_trained():
    error = "Previous response had parsing errors:\nERROR: no JSON"
    bad, good = replies(parse(TASK, agent("Analysis: x", screen=error), agent("{}")))
    assert (bad.content, bad.weight, good.weight) == ("Analysis: x", 0.0, 1.0)


def test_copied_context_is_not_trained():
    copied, own = replies(parse(TASK, agent("a", is_copied_context=True), agent("b")))
    assert (copied.weight, own.weight) == (0.0, 1.0)


def test_all_observation_results_are_kept_and_the_last_screen_is_not():
    step = agent("{}") | {"observation": {"results": [{"content": "one"}, {"content": "two"}]}}
    (conversation,) = parse(TASK, step, agent("{}")).conversations
    assert [m.content for m in conversation.messages] == [
        "Task: make a.txt",
        "{}",
        "one\ntwo",
        "{}",
    ]


def test_arguments_may_be_a_json_string():
    call = {"function_name": "bash_command", "arguments": '{"keystrokes": "ls\\n"}'}
    (reply,) = replies(parse(TASK, agent("Plan: look", [call])))
    assert json.loads(reply.content)["commands"] == [{"keystrokes": "ls\n"}]


def test_summarization_ends_the_conversation_and_the_rest_is_reported():
    parsed = parse(TASK, agent("{}"), SUMMARIZED, TASK, agent("{}"))
    assert len(parsed.conversations[0].messages) == 2
    assert [(r.reason.value, r.chain_id, r.message) for r in parsed.rejects] == [
        ("context_summarization", "chain-1", "steps[2]: context was replaced")
    ]


def test_other_context_windows_are_reported():
    names = ["trajectory.cont-1.json", "trajectory.summarization-1-summary.json", "recording.cast"]
    parsed = parse(TASK, agent("{}"), SUMMARIZED, siblings=names)
    assert reasons(parsed) == ["context_summarization"] * 2
    assert parsed.rejects[0].chain_id == "cont-1"


@pytest.mark.parametrize(
    ("steps", "reason", "message"),
    [
        ([TASK], "no_calls", "no step of the agent"),
        ([agent("{}")], "first_turn_not_user", "messages[0].role"),
        ([TASK, agent("{}", screen=""), agent("{}")], "consecutive_assistants", "messages[2]"),
        (
            [TASK, agent("", [bash(command="ls")])],
            "bad_arguments",
            "steps[1].tool_calls[0].arguments: no keystrokes",
        ),
        ([TASK, agent("", [{"function_name": "edit"}])], "unsupported_content", "function_name"),
        ([TASK, {"source": "system", "message": "note"}, agent("{}")], "unsupported_content", "1]"),
        ([TASK, agent("say <|im_end|>")], "structural_token", "messages[1].content"),
        ([TASK, agent("a", is_copied_context=True)], "nothing_to_train", "weight 0"),
    ],
)
def test_unusable_trajectories_are_refused(steps, reason, message):
    parsed = parse(*steps)
    assert reasons(parsed) == [reason]
    assert message in parsed.rejects[0].message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"steps": [', "bad_json"),
        (b"[1]", "bad_record"),
        (b'{"steps": {}}', "bad_record"),
        (b'{"agent": {"name": "openhands"}, "steps": []}', "bad_record"),
    ],
)
def test_files_that_are_no_terminus_trajectory_are_refused(data, reason):
    assert reasons(SCAFFOLDS["terminus2"].parse(MemoryFiles({"trajectory.json": data}))) == [reason]


def test_trajectory_is_detected_by_its_agent():
    def found(name):
        data = json.dumps({"agent": {"name": name}, "steps": []}).encode()
        return detect("", ["trajectory.json"], lambda _: data)

    assert found("terminus-2") == "terminus2"
    assert found("openhands") is None


def test_trajectory_is_detected_beside_a_log_of_unknown_calls():
    files = {
        "litellm-trajectory.jsonl": b"{}",
        "trajectory.json": b'{"agent": {"name": "Terminus2-fork"}, "steps": []}',
    }
    assert detect("", list(files), files.__getitem__) == "terminus2"
