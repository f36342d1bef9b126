"""Names, homes, models and dates get fixed substitutes, one kind at a time.

Run: pytest tests/test_quality_identity.py
"""

import json

import pytest

from pipeline.quality.cleaning import Cleaner, Cleaning
from pipeline.quality.identity import IdentityOptions
from pipeline.trajectory import Message, ToolCall, Trajectory

SYSTEM = (
    "You are Claude Code, powered by Claude Sonnet 4 (claude-sonnet-4-20250514).\n"
    "Working directory: /home/annika/app\nToday's date: 2025-11-03\n"
)


def trajectory():
    call = ToolCall("c1", "Bash", json.dumps({"command": 'ls "/home/annika/app"\n'}))
    return Trajectory(
        [
            Message("system", SYSTEM),
            Message("user", "Why does Claude Sonnet 4 fail on 2025-11-03?"),
            Message("assistant", "I look.", "annika wants it", [call]),
            Message("tool", "annika 2025-11-03 2024-02-01 a.py annikas /root", tool_call_id="c1"),
            Message("assistant", "done"),
        ]
    )


def cleaned(**kinds):
    result = Cleaner(Cleaning(identity=IdentityOptions(**kinds))).clean(trajectory())
    assert isinstance(result, Trajectory)
    return result.messages


def test_nothing_changes_unless_asked_for():
    assert cleaned() == trajectory().messages


def test_home_paths_are_general_and_arguments_stay_json():
    system, _, answer, result, _ = cleaned(home_paths=True)
    assert "Working directory: /home/user/app\n" in system.content
    assert answer.tool_calls[0].parsed_arguments() == {"command": 'ls "/home/user/app"\n'}
    assert result == trajectory().messages[3]


def test_user_names_are_replaced_wherever_they_are_words():
    system, _, answer, result, _ = cleaned(user_names=True)
    assert "/home/user/app" in system.content
    assert answer.reasoning_content == "user wants it"
    assert result.content == "user 2025-11-03 2024-02-01 a.py annikas /root"


def test_only_the_day_of_the_session_is_replaced():
    system, user, _, result, _ = cleaned(dates=True)
    assert "Today's date: 2025-01-01\n" in system.content
    assert user.content == "Why does Claude Sonnet 4 fail on 2025-01-01?"
    assert result.content == "annika 2025-01-01 2024-02-01 a.py annikas /root"


def test_model_names_are_replaced_in_system_prompts_only():
    system, user, *_ = cleaned(model_names=True)
    assert system.content.startswith("You are Assistant, powered by Assistant (assistant-model).\n")
    assert user == trajectory().messages[1]


@pytest.mark.parametrize("root", ["/Users/", "C:\\Users\\", "C:\\\\Users\\\\", "/home/"])
def test_homes_of_every_system_are_known(root):
    given = Trajectory([Message("user", f"see {root}annika"), Message("assistant", "ok")])
    result = Cleaner(Cleaning(identity=IdentityOptions(home_paths=True))).clean(given)
    assert isinstance(result, Trajectory)
    assert result.messages[0].content == f"see {root}user"
