"""The IM record holds a trajectory completely, and reads what other tools wrote.

Run: pytest tests/test_trajectory.py
"""

import pytest

from pipeline.errors import DataError
from pipeline.jsonl import NotJsonError, encode_json, has_lone_surrogate, parse_json
from pipeline.trajectory import (
    Message,
    Provenance,
    ToolCall,
    Trajectory,
    chat_messages,
    from_record,
    to_record,
)


def example():
    return Trajectory(
        messages=[
            Message("system", "s"),
            Message("user", "\u4fee\u590d"),
            Message("assistant", "", "r", [ToolCall("c", "bash", '{"b":1,"a":2}')], weight=0.5),
            Message("tool", "out", tool_call_id="c", is_error=True),
            Message("assistant", "done"),
        ],
        tools=[{"type": "function", "function": {"name": "bash", "parameters": {}}}],
        provenance=Provenance(
            instance_id="i", trial_id="i__abc", model="m", reward=1.0, generated_on="2026-01-02"
        ),
    )


def test_record_round_trip_is_exact():
    value, used_fallback = parse_json(encode_json(to_record(example())))
    assert from_record(value) == example()
    assert not used_fallback


def test_record_has_the_public_fields():
    record = to_record(example())
    assert list(record) == ["version", "meta_info", "tools", "messages"]
    assert record["version"] == "2.0.0"
    meta_info = record["meta_info"]
    assert (meta_info["teacher"], meta_info["language"], meta_info["rounds"]) == ("m", "zh", 2)
    assert meta_info["response_generate_time"] == "2026-01-02"
    assert meta_info["unique_info"]["_instance_id"] == "i"
    assert record["messages"][2]["tool_calls"][0]["function"]["arguments"] == '{"b":1,"a":2}'
    assert record["messages"][4]["reasoning_content"] == ""


def test_record_without_our_additions_is_read():
    record = {
        "version": "2.0.0",
        "meta_info": {"teacher": "t", "unique_info": {"_instance_id": "x"}},
        "tools": [],
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    }
    trajectory = from_record(record)
    assert trajectory.provenance == Provenance(instance_id="x", model="t")
    assert trajectory.messages[1].weight == 1.0


def test_chat_messages_hold_arguments_as_dicts_and_no_empty_fields():
    chat = chat_messages(example())
    assert chat[2] == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "r",
        "tool_calls": [
            {
                "id": "c",
                "type": "function",
                "function": {"name": "bash", "arguments": {"b": 1, "a": 2}},
            }
        ],
        "weight": 0.5,
    }
    assert chat[4] == {"role": "assistant", "content": "done", "weight": 1.0}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (None, "messages: not a list"),
        ([{"role": "human", "content": ""}], "messages[0].role: not one of"),
        ([{"role": "user", "content": None}], "messages[0].content: not a string (got NoneType)"),
        ([{"role": "assistant", "content": "", "weight": True}], "messages[0].weight: not a"),
        (
            [{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "x"}}]}],
            "messages[0].tool_calls[0].function.arguments: not a JSON string",
        ),
    ],
)
def test_wrong_record_is_refused_with_its_field(messages, message):
    with pytest.raises(DataError) as error:
        from_record({"messages": messages})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "used_fallback"),
    [
        (b'{"a": [1, "\xc3\xa9"]}', False),
        (b'{"a": NaN}', True),
        (b'{"a": "\\ud83d"}', True),
    ],
)
def test_lenient_reading_says_when_it_was_needed(text, used_fallback):
    assert parse_json(text)[1] == used_fallback


@pytest.mark.parametrize("text", [b"", b'{"a": 1', b"\xff\xfe{}", b"[" * 200_000])
def test_broken_json_is_one_kind_of_error(text):
    with pytest.raises(NotJsonError):
        parse_json(text)


def test_lone_surrogate_is_recognised():
    assert has_lone_surrogate("a\ud83d")
    assert not has_lone_surrogate("a\U0001f600")


def test_arguments_that_are_not_a_json_object_are_refused():
    for arguments in ("[1]", "{", '{"a": NaN}'):
        with pytest.raises(ValueError, match="JSON|Expecting"):
            ToolCall("", "x", arguments).parsed_arguments()
