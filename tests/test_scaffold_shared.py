"""Real trajectories, where they are at hand: they convert, or are refused for the right reason.

Run: pytest tests/test_scaffold_shared.py
"""

import json
from pathlib import Path

import pytest

from pipeline.scaffolds import SCAFFOLDS
from pipeline.scaffolds.parsed import MemoryFiles

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.is_dir(), reason="no real trajectories here"),
]


def terminus2(path):
    return SCAFFOLDS["terminus2"].parse(MemoryFiles({"trajectory.json": path.read_bytes()}))


def weights(parsed):
    return [[m.weight for m in c.messages if m.role == "assistant"] for c in parsed.conversations]


@pytest.mark.parametrize(
    ("name", "expected", "reasons"),
    [
        ("hello-world-timeout.trajectory", [1, 1, 1], []),
        ("hello-world-invalid-json.trajectory", [0, 1, 1, 1], []),
        ("hello-world-context-summarization-linear-history.trajectory", [1, 1, 1], []),
        (
            "hello-world-context-summarization-linear-history.trajectory.cont-1",
            [0, 1, 1, 1, 1],
            [],
        ),
    ],
)
def test_terminus2_goldens_of_harbor(name, expected, reasons):
    parsed = terminus2(SHARED / "harbor_golden" / "terminus_2" / f"{name}.json")
    assert weights(parsed) == [expected]
    assert [reject.reason.value for reject in parsed.rejects] == reasons


def test_every_terminus2_reply_is_json_unless_it_could_not_be_parsed():
    for path in sorted((SHARED / "harbor_golden" / "terminus_2").glob("*.trajectory.json")):
        for conversation in terminus2(path).conversations:
            for message in conversation.messages:
                if message.role == "assistant" and message.weight:
                    assert {"analysis", "plan", "commands"} <= json.loads(message.content).keys()


def test_openhands_calls_merge_into_one_conversation():
    lines = []
    folder = SHARED / "openhands_sdk" / "fixtures" / "llm_data" / "llm-logs"
    for path in sorted(folder.glob("*.json")):
        log = json.loads(path.read_text())
        request = {"messages": log["messages"], "tools": log["tools"]}
        record = {"request_body": request, "response_body": log["response"]}
        lines.append(json.dumps(record).encode())
    parsed = SCAFFOLDS["openhands-sdk"].parse(MemoryFiles({"log": b"\n".join(lines)}))
    assert weights(parsed) == [[1.0] * 6]
    assert parsed.rejects == []


def test_trajectories_of_other_agents_are_refused_not_misread():
    for path in (SHARED / "harbor_golden" / "openhands").glob("*.trajectory*.json"):
        parsed = terminus2(path)
        assert parsed.conversations == []
        assert parsed.rejects[0].reason.value == "bad_record"
