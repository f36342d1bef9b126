"""Codex rollouts: response items become turns, everything else is passed over and counted.

Run: pytest tests/test_scaffold_codex.py
"""

import json
from pathlib import Path

import pytest

from pipeline.scaffolds import SCAFFOLDS, recognise
from pipeline.scaffolds.parsed import MemoryFiles
from pipeline.scaffolds.peek import HEAD_BYTES

SHARED = Path(__file__).parent.parent.parent / "shared" / "data" / "codex"
META = {"type": "session_meta", "payload": {"base_instructions": {"text": "system"}}}


def item(kind, **fields):
    return {"type": "response_item", "payload": {"type": kind} | fields}


def message(role, text):
    return item("message", role=role, content=[{"type": "input_text", "text": text}])


def call(identity):
    return item("function_call", name="shell", arguments="{}", call_id=identity)


def output(identity, value="out"):
    return item("function_call_output", call_id=identity, output=value)


def parse(*records):
    data = "\n".join(map(json.dumps, [META, *records])).encode()
    return SCAFFOLDS["codex"].parse(MemoryFiles({"rollout-1.jsonl": data}))


def turns(parsed):
    (conversation,) = parsed.conversations
    return [
        (m.role, m.content or [call.id for call in m.tool_calls], m.weight)
        for m in conversation.messages
    ]


def reasons(parsed):
    return [reject.reason.value for reject in parsed.rejects]


TASK = message("user", "task")


def test_items_of_one_response_are_one_turn_and_results_follow_the_order_of_calls():
    say = message("assistant", "both")
    records = [TASK, say, call("a"), call("b"), output("b"), output("a"), message("assistant", "x")]
    parsed = parse(*records)
    assert [(role, content) for role, content, _ in turns(parsed)] == [
        ("system", "system"),
        ("user", "task"),
        ("assistant", "both"),
        ("tool", "out"),
        ("tool", "out"),
        ("assistant", "x"),
    ]
    called = parsed.conversations[0].messages[2:5]
    assert [c.id for c in called[0].tool_calls] == ["a", "b"]
    assert [m.tool_call_id for m in called[1:]] == ["a", "b"]


def test_summaries_of_reasoning_are_not_taken_for_reasoning():
    summary = item("reasoning", summary=[{"type": "summary_text", "text": "Thinking"}])
    parsed = parse(TASK, summary, message("assistant", "x"))
    assert parsed.conversations[0].messages[-1].reasoning_content == ""
    assert parsed.counts["skipped_reasoning"] == 1


def test_aborted_turn_is_context_and_the_rest_is_trained():
    abort = {"type": "event_msg", "payload": {"type": "turn_aborted"}}
    half, rest = message("assistant", "half"), message("assistant", "rest")
    parsed = parse(TASK, half, abort, message("user", "go on"), rest)
    assert [weight for role, _, weight in turns(parsed) if role == "assistant"] == [0.0, 1.0]


def test_compaction_starts_a_conversation_on_the_new_history():
    history = [message("user", "task")["payload"], message("assistant", "old")["payload"]]
    compacted = {"type": "compacted", "payload": {"replacement_history": history}}
    parsed = parse(TASK, message("assistant", "one"), compacted, TASK, message("assistant", "two"))
    first, second = parsed.conversations
    assert (first.chain_id, second.chain_id) == ("main", "main-2")
    assert [m.weight for m in second.messages if m.role == "assistant"] == [0.0, 1.0]
    summary = {"type": "compacted", "payload": {"message": "summary"}}
    parsed = parse(TASK, message("assistant", "one"), summary, message("assistant", "two"))
    assert [m.content for m in parsed.conversations[1].messages] == ["system", "summary", "two"]


def test_later_instructions_are_shown_as_user_text():
    parsed = parse(TASK, message("assistant", "x"), message("developer", "new"), call("a"))
    assert parsed.counts["late_developer_messages"] == 1
    assert [turn[0] for turn in turns(parsed)] == ["system", "user", "assistant"]


@pytest.mark.parametrize(
    ("value", "text", "is_error"),
    [
        ("plain", "plain", False),
        ('{"output": "x", "metadata": {"exit_code": 2}}', None, True),
        ({"content": "x", "success": False}, "x", True),
        ([{"type": "input_text", "text": "x"}], "x", False),
    ],
)
def test_output_of_any_shape_is_kept(value, text, is_error):
    parsed = parse(TASK, call("a"), output("a", value), message("assistant", "x"))
    result = parsed.conversations[0].messages[3]
    assert (result.content, result.is_error) == (value if text is None else text, is_error)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([TASK], ["no_calls"]),
        ([TASK, call("a")], ["unanswered_tool_call"]),
        ([TASK, item("tool_call"), message("assistant", "x")], ["unsupported_content"]),
        ([TASK, item("compaction"), message("assistant", "x")], ["context_summarization"]),
    ],
)
def test_what_cannot_be_used_is_refused(records, expected):
    assert reasons(parse(*records)) == expected


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="no real trajectories here")
def test_real_rollouts_convert_or_say_why_not():
    found = {}
    for path in sorted(p for p in SHARED.rglob("*.jsonl")):
        data = path.read_bytes()
        if recognise(data[:HEAD_BYTES], path.name) == "codex":
            parsed = SCAFFOLDS["codex"].parse(MemoryFiles({path.name: data}))
            found[path.name] = (len(parsed.conversations), reasons(parsed))
    assert found == {
        "large.jsonl": (0, ["unsupported_content"]),
        "small.jsonl": (1, ["context_summarization"] * 3),
    }
