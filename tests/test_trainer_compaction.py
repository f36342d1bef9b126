"""Property: behind a compaction, nothing is trained that sees the history which the model did not.

Run: pytest tests/test_trainer_compaction.py
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from trainer_runs import tokenise, train_args, write_dataset
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.sharegpt import to_sharegpt
from pipeline.trainer.data.compaction import split_at_compaction
from pipeline.trainer.data.store import TokenStore
from pipeline.trajectory import Message, ToolCall, Trajectory

SUMMARIES = [
    "This session is being continued from a previous conversation that ran out of context.",
    "Another language model started to solve this problem and produced a summary of its thinking",
    "The conversation history before this point was compacted into the following summary:\n\n",
    "<state_snapshot>\n<overall_goal>x</overall_goal>\n</state_snapshot>",
]


def _row(*values: str) -> dict[str, Any]:
    """System turn, then user and model in turn."""
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(values)]
    return {"conversations": [{"from": "system", "value": "sys"}, *turns], "tools": "[]"}


@pytest.mark.parametrize("summary", SUMMARIES)
def test_a_summary_of_any_agent_begins_a_window(summary: str) -> None:
    row = _row("q", "a", "r", "b", summary, "c", "s", "d", summary, "e")
    assert split_at_compaction(row) == [
        _row("q", "a", "r", "b"),
        _row(summary, "c", "s", "d"),
        _row(summary, "e"),
    ]


@pytest.mark.parametrize(
    "row",
    [
        _row("q", "a", "r", "b"),
        _row(SUMMARIES[0], "a", "r", "b"),
        _row("q", SUMMARIES[0], "r", "b"),
        _row("q", "a", f"He wrote: {SUMMARIES[0]}", "b"),
    ],
    ids=["none", "the first turn", "of the model", "quoted"],
)
def test_other_rows_stay_whole(row: dict[str, Any]) -> None:
    assert split_at_compaction(row) == [row]


def test_rows_of_plain_text_are_split_too() -> None:
    roles = ("user", "assistant")
    turns = [
        {"role": roles[i % 2], "content": t} for i, t in enumerate(["q", "a", SUMMARIES[0], "b"])
    ]
    windows = split_at_compaction({"messages": turns})
    assert windows == [{"messages": turns[:2]}, {"messages": turns[2:]}]


def test_what_was_kept_beside_the_summary_opens_the_window_but_answers_stay_behind() -> None:
    call = ToolCall("c1", "run", "{}")
    messages = [
        Message("user", "q"),
        Message("assistant", "", tool_calls=[call]),
        Message("tool", "output", tool_call_id="c1"),
        Message("user", "q"),
        Message("user", SUMMARIES[1]),
        Message("assistant", "a"),
    ]
    first, second = split_at_compaction(to_sharegpt(Trajectory(messages)))
    assert [turn["from"] for turn in first["conversations"]] == ["human", "function_call"]
    opening, answer = second["conversations"]
    assert [m["content"] for m in json.loads(opening["messages"])] == ["q", SUMMARIES[1]]
    assert answer["value"] == "a"


def _examples(store: TokenStore) -> list[Any]:
    return [store[index] for index in range(len(store))]


@pytest.mark.parametrize("template", ["auto", "qwen3"])
def test_the_store_holds_the_windows_as_rows_of_their_own_would(
    tiny_model: Path, tmp_path: Path, template: str
) -> None:
    whole = _row("q", "a", "r", "b", SUMMARIES[0], "c", "s", "d")
    split = [_row("q", "a", "r", "b"), _row(SUMMARIES[0], "c", "s", "d")]
    other = _row("q", "a")
    write_dataset(tmp_path / "data", [whole, other])
    write_dataset(tmp_path / "data", [*split, other], "split")
    args = train_args(tiny_model, tmp_path / "data", tmp_path / "run", template=template)
    found = tokenise(args.model_copy(update={"cutoff_policy": "split_at_compaction"})).store
    assert _examples(found) == _examples(
        tokenise(args.model_copy(update={"dataset": "split"})).store
    )
    assert _examples(found) != _examples(tokenise(args).store)
    assert {found.row(i) for i in range(len(found))} == {0, 1}
    assert list(found.cutoff) == ["split_at_compaction"]


def test_what_is_still_too_long_is_truncated_and_counted(tiny_model: Path, tmp_path: Path) -> None:
    row = _row("q", "a", SUMMARIES[0], "b", "word " * 300, "c")
    dataset_dir = write_dataset(tmp_path / "data", [row])
    args = train_args(
        tiny_model,
        dataset_dir,
        tmp_path / "run",
        cutoff_len=200,
        cutoff_policy="split_at_compaction",
    )
    file = tmp_path / "train.yaml"
    file.write_text(yaml.safe_dump(args.model_dump(mode="json")))
    told = json.loads(CliRunner().invoke(app, ["tokenize", str(file), "--json"]).stdout)
    tally = told["cutoff"]["split_at_compaction"]
    assert (tally["examples"], tally["turns_lost"], tally["rows_lost"]) == (2, 1, 0)
    assert told["turns_over_cutoff"] == 1
