"""A session of Claude Code is a graph of events; its chains are what the model saw.

Run: pytest tests/test_scaffold_claude_session.py
"""

import json
from pathlib import Path

import pytest

from pipeline.scaffolds import SCAFFOLDS, recognise
from pipeline.scaffolds.parsed import MemoryFiles
from pipeline.scaffolds.peek import HEAD_BYTES

SHARED = Path(__file__).parent.parent.parent / "shared" / "data" / "claude_code"


def event(uuid, parent, role, content, message_id="", **extra):
    message = {"role": role, "content": content, "id": message_id or uuid, "model": "m"}
    return {
        "type": role,
        "uuid": uuid,
        "parentUuid": parent,
        "isSidechain": False,
        "sessionId": "s",
        "message": message,
    } | extra


def user(uuid, parent, text="go on", **extra):
    return event(uuid, parent, "user", text, **extra)


def say(uuid, parent, text="done", message_id="", **extra):
    return event(uuid, parent, "assistant", [{"type": "text", "text": text}], message_id, **extra)


def call(uuid, parent, identity, message_id="", **extra):
    block = {"type": "tool_use", "id": identity, "name": "Bash", "input": {"command": "ls"}}
    return event(uuid, parent, "assistant", [block], message_id, **extra)


def result(uuid, parent, identity, **extra):
    block = {"type": "tool_result", "tool_use_id": identity, "content": f"out {identity}"}
    return event(uuid, parent, "user", [block], **extra)


def parse(*events):
    lines = [e if isinstance(e, str) else json.dumps(e) for e in events]
    files = MemoryFiles({"s.jsonl": "\n".join(lines).encode()})
    return SCAFFOLDS["claude-session"].parse(files)


def shape(parsed):
    """{chain: [(role, content or calls, weight of an assistant)]}"""
    return {
        c.chain_id: [
            (m.role, m.content or [call.id for call in m.tool_calls], m.weight)
            if m.role == "assistant"
            else (m.role, m.content)
            for m in c.messages
        ]
        for c in parsed.conversations
    }


def reasons(parsed):
    return [reject.reason.value for reject in parsed.rejects]


def test_blocks_of_one_response_and_results_of_parallel_calls_are_joined():
    parsed = parse(
        user("u", None, "task"),
        event("a1", "u", "assistant", [{"type": "thinking", "thinking": "hm"}], "m1"),
        call("a2", "a1", "t1", "m1"),
        result("r1", "a2", "t1"),
        call("a3", "a2", "t2", "m1"),
        result("r2", "a3", "t2"),
        say("a4", "r2"),
    )
    assert shape(parsed) == {
        "main": [
            ("user", "task"),
            ("assistant", ["t1", "t2"], 1.0),
            ("tool", "out t1"),
            ("tool", "out t2"),
            ("assistant", "done", 1.0),
        ]
    }
    assert parsed.conversations[0].messages[1].reasoning_content == "hm"


def test_block_that_comes_after_the_first_result_belongs_to_its_response():
    parsed = parse(
        user("u", None, "task"),
        call("a1", "u", "t1", "m1"),
        result("r1", "a1", "t1"),
        call("a2", "r1", "t2", "m1"),
        result("r2", "a2", "t2"),
        say("a3", "r2"),
    )
    assert shape(parsed)["main"][1:4] == [
        ("assistant", ["t1", "t2"], 1.0),
        ("tool", "out t1"),
        ("tool", "out t2"),
    ]


def test_newest_branch_is_the_main_chain_and_shared_turns_are_trained_once():
    parsed = parse(
        user("u", None, "task"),
        say("a", "u", "shared"),
        user("old", "a", "first try"),
        say("b", "old", "abandoned"),
        user("new", "a", "second try"),
        say("c", "new", "kept"),
    )
    found = shape(parsed)
    assert [turn[2] for turn in found["main"] if turn[0] == "assistant"] == [1.0, 1.0]
    assert found["main"][-1] == ("assistant", "kept", 1.0)
    assert [turn[1:] for turn in found["main-branch-1"] if turn[0] == "assistant"] == [
        ("shared", 0.0),
        ("abandoned", 1.0),
    ]


@pytest.mark.parametrize("parent", [None, "a"])
def test_compaction_starts_a_conversation_with_the_summary_as_context(parent):
    parsed = parse(
        user("u", None, "task"),
        say("a", "u", "before"),
        user("c", parent, "summary", isCompactSummary=True),
        say("b", "c", "after"),
    )
    assert shape(parsed) == {
        "main": [("user", "task"), ("assistant", "before", 1.0)],
        "main-2": [("user", "summary"), ("assistant", "after", 1.0)],
    }


def test_subagents_are_chains_of_their_own_inline_and_in_files():
    side = {"isSidechain": True}
    main = [user("u", None), call("a", "u", "t"), result("r", "a", "t"), say("b", "r")]
    inline = [user("x", "a", "look", **side), say("y", "x", "seen", **side)]
    other = [user("p", None, "more", agentId="7f", **side), say("q", "p", agentId="7f", **side)]
    contents = {
        "s.jsonl": [*main, *inline],
        "s/subagents/agent-7f.jsonl": other,
        "s/subagents/agent-7f.meta.json": [{}],
    }
    files = {name: "\n".join(map(json.dumps, events)).encode() for name, events in contents.items()}
    parsed = SCAFFOLDS["claude-session"].parse(MemoryFiles(files))
    assert [(c.chain_id, len(c.messages)) for c in parsed.conversations] == [
        ("main", 4),
        ("sidechain", 2),
        ("agent-7f", 2),
    ]


def test_what_the_client_made_up_is_dropped():
    parsed = parse(
        user("u", None, "task"),
        user("m", "u", "injected", isMeta=True),
        user("l", "m", "<command-name>/cost</command-name>"),
        say("e", "l", "API Error: 500", isApiErrorMessage=True),
        say("a", "e"),
    )
    assert shape(parsed) == {"main": [("user", "task"), ("assistant", "done", 1.0)]}
    assert (parsed.counts["client_texts"], parsed.counts["synthetic_turns"]) == (2, 1)


def test_a_command_is_kept_when_it_is_all_that_a_turn_answers():
    command = "<command-message>init</command-message> Analyse this."
    assert shape(parse(user("u", None, command), say("a", "u")))["main"][0] == ("user", command)


def test_a_result_is_kept_although_the_client_marks_it_as_its_own():
    events = [user("u", None), call("a", "u", "t"), result("r", "a", "t", isMeta=True)]
    assert ("tool", "out t") in shape(parse(*events, say("b", "r")))["main"]


def test_calls_without_a_result_are_cut():
    parsed = parse(
        user("u", None),
        call("a", "u", "t1", "m1"),
        call("b", "a", "t2", "m1"),
        result("r", "a", "t1"),
        user("v", "b", "[Request interrupted by user]"),
        say("c", "r", "half"),
        say("d", "v", "on"),
        call("e", "d", "t3", "d"),
    )
    assert parsed.counts["dangling_calls"] >= 2
    for conversation in parsed.conversations:
        answered = {m.tool_call_id for m in conversation.messages if m.role == "tool"}
        assert {c.id for m in conversation.messages for c in m.tool_calls} <= answered


def test_session_without_links_is_read_in_order():
    events = [user("u", None), say("a", None), user("v", None), say("b", None)]
    assert len(shape(parse(*events))["main"]) == 4


def test_repeated_history_of_a_resumed_session_is_read_once():
    first = [user("u", None), say("a", "u")]
    parsed = parse(*first, *first, user("v", "a"), say("b", "v"))
    assert [len(turns) for turns in shape(parsed).values()] == [4]
    assert parsed.counts["repeated_events"] == 2


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (["{broken", "[1]", user("u", None), say("a", "u")], ["bad_json", "bad_record"]),
        ([{"type": "user", "message": "x"}], ["bad_record"]),
        ([say("a", "gone")], ["bad_record"]),
        ([user("u", None), call("a", "u", "t")], ["unanswered_tool_call"]),
        ([user("u", None)], ["no_calls"]),
    ],
)
def test_what_cannot_be_used_is_refused(events, expected):
    assert reasons(parse(*events)) == expected


def test_events_that_name_each_other_in_a_circle_do_not_hang():
    parsed = parse(user("u", "a"), say("a", "u"))
    assert parsed.conversations or parsed.rejects


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="no real trajectories here")
def test_every_real_session_is_recognised_and_converts_or_says_why_not():
    converted = 0
    for path in sorted(p for p in SHARED.rglob("*.json*") if p.is_file()):
        data = path.read_bytes()
        assert recognise(data[:HEAD_BYTES], path.name) == "claude-session", path
        parsed = SCAFFOLDS["claude-session"].parse(MemoryFiles({path.name: data}))
        assert parsed.conversations or parsed.rejects, path
        converted += bool(parsed.conversations)
        if "full" in path.parts or "sniffly" in path.parts:
            assert [c.chain_id for c in parsed.conversations] == ["main"], path
    assert converted == 18
