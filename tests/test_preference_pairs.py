"""STEP 0 makes pairs of a resolved and a failed attempt at one task, and says why others are none.

Run: pytest tests/test_preference_pairs.py
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from sft_command import ROOT, write_config
from trainer_runs import read_log, train_args
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config.load import load_config
from pipeline.conversion.lf_file import validate_lf
from pipeline.errors import ConfigError, DataError
from pipeline.preference_pairs import pair_sides
from pipeline.sharegpt import from_sharegpt
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train
from pipeline.trajectory import chat_messages, from_record

ATTEMPTS = ROOT / "examples" / "attempts"
TOOL = {"type": "function", "function": {"name": "sh", "description": "", "parameters": {}}}


def attempt(task: str, reward: float | None, *steps: tuple[str, str], end: str = "Done.") -> Any:
    """A row of a source of messages: for each step (command, output) a call, then the answer.

    Ids of calls are different in every row.
    """
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"Fix {task}."}]
    for number, (command, output) in enumerate(steps):
        identity = f"{task}-{reward}-{end}-{number}"
        function = {"name": "sh", "arguments": json.dumps({"command": command})}
        call = {"id": identity, "type": "function", "function": function}
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": identity, "content": output})
    messages.append({"role": "assistant", "content": end})
    row: dict[str, Any] = {"messages": messages, "tools": [TOOL], "instance_id": task}
    return row if reward is None else {**row, "reward": reward}


class Converted:
    """What `sft convert` makes of a source."""

    def __init__(self, source: Path, out: Path, *settings: str) -> None:
        out.mkdir(exist_ok=True)
        files = {"--im": out / "im", "--lf": out / "lf", "--rejected": out / "rejected"}
        arguments = [str(part) for option in files.items() for part in option]
        for setting in ("instance_status=all", "num_workers=1", *settings):
            arguments += ["--set", setting]
        done = CliRunner().invoke(app, ["convert", str(source), *arguments, "--json"])
        assert done.exit_code == 0, (done.output, done.exception)
        self.summary = json.loads(done.stdout)
        self.lf_bytes = files["--lf"].read_bytes()
        self.pairs = json.loads(self.lf_bytes)
        self.records = [json.loads(line) for line in files["--im"].read_text().splitlines()]
        lines = files["--rejected"].read_text().splitlines()
        self.rejects = {(r["trial"], r["chain"]): r for r in map(json.loads, lines)}

    @property
    def names(self) -> list[tuple[str, str]]:
        """Chains of the chosen and the rejected side of every pair."""
        return [(pair["_chosen_chain_id"], pair["_rejected_chain_id"]) for pair in self.pairs]


def convert_rows(directory: Path, rows: list[Any], *settings: str) -> Converted:
    source = directory / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Converted(source, directory / "out", *(settings or ("pairs={}",)))


def values(turns: list[dict[str, Any]]) -> list[str]:
    return [turn["value"] for turn in turns]


def test_a_pair_begins_where_the_attempts_part(tmp_path: Path) -> None:
    found = convert_rows(
        tmp_path,
        [
            attempt("a", 1.0, ("ls", "x.py"), ("cat x.py", "bug"), end="Fixed."),
            attempt("a", 0.0, ("ls", "x.py"), ("rm x.py", ""), end="Gone."),
        ],
    )
    [pair] = found.pairs
    assert [turn["from"] for turn in pair["conversations"]] == [
        "human",
        "function_call",
        "observation",
    ], "ids of calls differ, and are no difference"
    assert [turn["from"] for turn in pair["chosen"]] == ["function_call", "observation", "gpt"]
    assert "cat x.py" in pair["chosen"][0]["value"]
    assert values(pair["chosen"])[1:] == ["bug", "Fixed."]
    assert "rm x.py" in pair["rejected"][0]["value"]
    assert values(pair["rejected"])[1:] == ["", "Gone."]
    assert json.loads(pair["tools"])[0]["function"]["name"] == "sh"
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "out" / "lf")])
    assert "a pair; sft preview TRAIN.yaml shows its two sides" in shown.output
    assert found.summary == {**found.summary, "read": 1, "kept": 1, "chains": 2, "pairs": 1}


def test_both_sides_say_what_the_records_say(tmp_path: Path) -> None:
    found = Converted(ATTEMPTS, tmp_path / "out", "pairs={}")
    trials = {record["meta_info"]["unique_info"]["_trial_id"]: record for record in found.records}
    assert len(found.pairs) == 6
    for pair in found.pairs:
        for side, conversation in zip(("chosen", "rejected"), pair_sides(pair), strict=True):
            record = trials[pair[f"_{side}_trial_id"]]
            wanted = chat_messages(from_record(record))
            messages, _ = from_sharegpt(conversation)
            num_prompt = len(pair["conversations"])
            weights = [message.pop("weight", None) for message in messages]
            assert not any(weights[:num_prompt]), "the conversation carries no loss"
            assert [weight for weight in weights[num_prompt:] if weight is not None] == [
                message["weight"] for message in wanted[num_prompt:] if "weight" in message
            ]
            for message in wanted:
                message.pop("weight", None)
            assert _without_ids(messages) == _without_ids(wanted)
            resolved = record["meta_info"]["unique_info"]["_reward"] == 1.0
            assert resolved == (side == "chosen")


def _without_ids(messages: list[dict[str, Any]]) -> list[Any]:
    bare = []
    for message in messages:
        calls = [call["function"] for call in message.get("tool_calls", [])]
        rest = {k: v for k, v in message.items() if k not in ("tool_call_id", "tool_calls")}
        bare.append((rest, calls))
    return bare


def test_every_attempt_is_in_a_pair_or_has_a_reason(tmp_path: Path) -> None:
    other_prompt = attempt("a", 0.0, end="other")
    other_prompt["messages"][0]["content"] += " Today is Friday."
    found = convert_rows(
        tmp_path,
        [
            attempt("a", 1.0, end="one"),
            attempt("a", 0.0, end="two"),
            attempt("a", 0.0, end="one"),
            other_prompt,
            attempt("b", 0.5, end="half"),
            attempt("c", None, end="unknown"),
        ],
    )
    assert found.names == [("row-1", "row-2")]
    messages = {chain: (r["reason"], r["message"]) for (_, chain), r in found.rejects.items()}
    assert messages == {
        "row-3": ("unpaired", "rows row-1 and rows row-3: both say the same"),
        "row-4": ("unpaired", "no resolved attempt at a begins with the same prompt and tools"),
        "row-5": ("unpaired", "no resolved attempt at b begins with the same prompt and tools"),
        "row-6": ("no_reward", "no reward, so it is not known which side it is"),
    }
    assert len(found.records) == 2, "the records are those of the pairs"


def test_the_best_meet_the_worst_in_turns_up_to_the_cap(tmp_path: Path) -> None:
    rewards = [1.0, 0.0, 2.0, 0.5, 0.2]
    rows = [attempt("a", reward, end=f"number {n}") for n, reward in enumerate(rewards)]
    every = convert_rows(tmp_path, rows, "pairs={max_per_instance: 0}")
    assert len(set(every.names)) == len(every.names) == 2 * 3
    two = convert_rows(tmp_path, rows, "pairs={max_per_instance: 2}")
    assert set(two.names) == {("row-3", "row-2"), ("row-1", "row-5")}
    assert two.rejects["rows", "row-4"]["message"] == (
        "2 pairs of a are made without it (conversion.pairs.max_per_instance)"
    )
    again = convert_rows(tmp_path, rows, "pairs={max_per_instance: 2}")
    assert again.lf_bytes == two.lf_bytes


def test_an_environment_that_differs_first_leaves_the_turn_it_answers_on_both_sides(
    tmp_path: Path,
) -> None:
    rows = [
        attempt("a", 1.0, ("date", "Monday"), end="Fixed."),
        attempt("a", 0.0, ("date", "Friday"), end="Gone."),
    ]
    [pair] = convert_rows(tmp_path, rows).pairs
    assert len(pair["conversations"]) == 1
    assert pair["chosen"][0]["value"] == pair["rejected"][0]["value"]
    found = convert_rows(
        tmp_path,
        [*rows, attempt("b", 1.0), attempt("b", 0.0, end="No.")],
        "pairs.continuation=turn",
    )
    assert [pair["_instance_id"] for pair in found.pairs] == ["b"]
    assert (
        "the environment answers differently before the model does"
        in (found.rejects["rows", "row-1"]["message"])
    )


def test_a_turn_on_each_side_is_what_llamafactory_reads(tmp_path: Path) -> None:
    found = Converted(ATTEMPTS, tmp_path / "out", "pairs.continuation=turn")
    assert len(found.pairs) == 6
    for pair in found.pairs:
        assert pair["conversations"][-1]["from"] in ("human", "observation")
        assert {pair[side]["from"] for side in ("chosen", "rejected")} <= {"gpt", "function_call"}
    assert validate_lf(tmp_path / "out" / "lf").lf_format == "pairs"


def test_a_side_without_loss_is_no_pair(tmp_path: Path) -> None:
    rows = [attempt("a", 1.0, end="Fixed."), attempt("a", 0.0, end="No.")]
    rows[1]["messages"][-1]["weight"] = 0
    rows += [attempt("b", 1.0, end="Fixed."), attempt("b", 0.0, ("ls", ""), end="No.")]
    rows[3]["messages"][-1]["weight"] = 0
    rows += [attempt("c", 1.0, ("ls", "")), attempt("c", 0.0, ("ls", ""), end="No.")]
    rows[5]["messages"][-1]["weight"] = 0
    found = convert_rows(tmp_path, rows)
    assert found.names == [("row-3", "row-4")]
    assert found.rejects["rows", "row-2"]["reason"] == "nothing_to_train"
    assert found.rejects["rows", "row-6"]["message"].endswith(
        "rejected: no turn of it carries loss"
    )


PREPARE = [
    f"source.job_dir={ATTEMPTS}",
    "conversion.instance_status=all",
    "conversion.num_workers=1",
    "training.stage=dpo",
]


def prepare(config: Path, *overrides: str) -> str:
    """`sft prep --register`. Returns: what it said."""
    done = CliRunner().invoke(app, ["prep", "--register", "--config", str(config), *overrides])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


@pytest.mark.usefixtures("rank_of_its_own")
def test_a_config_makes_pairs_registers_them_and_trains_on_them(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pipeline")
    config = write_config(tmp_path / "config.yaml")
    prepare(config, *PREPARE, "conversion.pairs={}")
    assert "11 trials read, 10 kept as 10 conversations in 6 pairs, 1 rejected (1 unpaired)" in (
        caplog.text
    )
    lf_data = tmp_path / "artifacts" / "data" / "lf_data"
    assert json.loads((lf_data / "demo.stats.json").read_bytes())["pairs"] == 6
    entry = json.loads((lf_data / "dataset_info.json").read_bytes())["demo"]
    assert entry["ranking"] is True
    output_dir = tmp_path / "model"
    args = train_args(tiny_model, lf_data, output_dir, stage="dpo", cutoff_len=8192, max_steps=1)
    train(args, StopRequest())
    assert "rewards/margins" in read_log(output_dir)[0]
    caplog.clear()
    prepare(config, *PREPARE, "conversion.pairs={}")
    assert "input, options and code are unchanged" in caplog.text
    caplog.clear()
    prepare(config, *PREPARE, "conversion.pairs={max_per_instance: 1}")
    assert "pairs changed" in caplog.text
    assert "in 4 pairs" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["conversion.pairs={}"], "takes resolved and failed attempts; set conversion.instance_"),
        ([*PREPARE], "training.stage dpo trains on pairs, which STEP 0 makes if asked to"),
        ([*PREPARE, "conversion.pairs={}", "training.stage=sft"], "stage sft trains on conversat"),
        ([*PREPARE, "conversion.pairs={}", "conversion.lf_format=rendered"], "set conversion.lf_"),
        ([*PREPARE, "conversion.pairs={}", "conversion.max_per_instance=2"], "needs the worse att"),
        (
            [*PREPARE, "conversion.pairs={}", "infrastructure.engine=llamafactory"]
            + ["infrastructure.llamafactory_python=python"],
            "set conversion.pairs.continuation: turn",
        ),
    ],
)
def test_what_a_config_asks_of_pairs_goes_together(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(write_config(tmp_path / "config.yaml"), overrides)


@pytest.mark.parametrize(("num_attempts", "level"), [(1, "FAIL"), (2, "OK")])
def test_a_dry_run_says_whether_there_are_pairs(
    tmp_path: Path, num_attempts: int, level: str
) -> None:
    source = tmp_path / "rows.jsonl"
    rows = [attempt("a", 1.0), attempt("a", 0.0, end="No.")][:num_attempts]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = ["source.type=files", f"source.path={source}", *PREPARE[1:], "conversion.pairs={}"]
    arguments = ["dryrun", "--json", "--config", str(write_config(tmp_path / "config.yaml"))]
    found = json.loads(CliRunner().invoke(app, [*arguments, *overrides]).stdout)
    [said] = [check for check in found["checks"] if "looked into" in check["message"]]
    assert said["status"] == level
    assert ("make 1 pairs" if level == "OK" else "none makes a pair") in said["message"]


@pytest.mark.parametrize("key", ["chosen", "rejected"])
def test_a_pair_without_a_side_is_none(key: str) -> None:
    turn = {"from": "gpt", "value": "x"}
    row = {"conversations": [{"from": "human", "value": "q"}], "chosen": turn, "rejected": turn}
    with pytest.raises(DataError, match=f"{key}: missing"):
        pair_sides({**row, key: None})
