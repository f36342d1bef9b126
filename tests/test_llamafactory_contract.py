"""LLaMA-Factory itself loads everything we write: no warning, no dropped example, calls unchanged.

Run: LLAMAFACTORY_PYTHON=<interpreter> pytest tests/test_llamafactory_contract.py
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from pipeline.conversion.lf_file import RowWriter
from pipeline.conversion.pairing import PairRules
from pipeline.conversion.selection import SelectionRules
from pipeline.conversion.source import HarborJob
from pipeline.jsonl import encode_json
from pipeline.sharegpt import from_sharegpt, to_sharegpt
from pipeline.step0_convert import ConvertOptions, convert
from pipeline.step1_register import register
from pipeline.trajectory import Message, ToolCall, Trajectory

pytestmark = pytest.mark.llamafactory

EXAMPLE_JOB = Path(__file__).parent.parent / "examples" / "job"
ATTEMPTS = EXAMPLE_JOB.with_name("attempts")

LOAD = """
import json, sys
from llamafactory.data.loader import _load_single_dataset
from llamafactory.data.parser import get_dataset_list
from llamafactory.data.template import TEMPLATES
from llamafactory.hparams import DataArguments, ModelArguments, TrainingArguments

directory, out = sys.argv[1:]
data_args = DataArguments(dataset="demo", dataset_dir=directory, template="qwen3")
model_args = ModelArguments(model_name_or_path="unused")
training_args = TrainingArguments(output_dir=out)
(attributes,) = get_dataset_list(["demo"], directory)
rows = _load_single_dataset(attributes, model_args, data_args, training_args)
template = TEMPLATES["qwen3"]
result = []
for row in rows:
    turns = row["_prompt"] + row["_response"]
    calls = [
        template.format_function.apply(
            content=turn["content"],
            thought_words=template.thought_words,
            tool_call_words=template.tool_call_words,
        )[0]
        for turn in turns
        if turn["role"] == "function"
    ]
    tools = template.format_tools.apply(content=row["_tools"])[0] if row["_tools"] else ""
    result.append({"num_turns": len(turns), "calls": calls, "has_tools": bool(tools)})
json.dump(result, open(out + "/result.json", "w"))
"""


def load_with_llamafactory(dataset_dir, tmp_path):
    """What LLaMA-Factory makes of dataset `demo`, and everything it printed."""
    python = os.environ.get("LLAMAFACTORY_PYTHON")
    if not python:
        pytest.skip("LLAMAFACTORY_PYTHON is not set")
    stub = tmp_path / "stubs" / "torchaudio"  # imported by it for text data as well
    stub.mkdir(parents=True)
    (stub / "__init__.py").touch()
    environment = os.environ | {
        "PYTHONPATH": str(stub.parent),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
    }
    finished = subprocess.run(
        [python, "-c", LOAD, str(dataset_dir), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    printed = finished.stdout + finished.stderr
    for complaint in ("Invalid role tag", "Invalid message count", "Skipping this abnormal"):
        assert complaint not in printed
    return json.loads((tmp_path / "result.json").read_text())


def rendered_call(message):
    """A calling turn as Qwen3's own template writes it (its content is stripped there)."""
    thought = message.get("reasoning_content")
    text = f"<think>\n{thought}\n</think>\n\n" if thought else ""
    text += message["content"] + "\n" if message["content"] else ""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message["tool_calls"]]
    text += "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)
    return text + "<|im_end|>\n"


def check(rows, loaded):
    assert len(loaded) == len(rows)
    for row, seen in zip(rows, loaded, strict=True):
        messages, tools = from_sharegpt(row)
        has_system = row["conversations"][0]["from"] == "system"
        assert seen["num_turns"] == len(row["conversations"]) - has_system
        assert seen["has_tools"] == bool(tools)
        assert seen["calls"] == [rendered_call(m) for m in messages if m.get("tool_calls")]


def test_example_job_is_loaded_without_a_warning(tmp_path):
    lf_file = tmp_path / "data" / "demo.json"
    options = ConvertOptions(SelectionRules("all"), num_workers=1)
    convert(HarborJob(EXAMPLE_JOB), tmp_path / "demo.jsonl", lf_file, options)
    register(lf_file.parent, "demo", lf_file, "structured")
    check(json.loads(lf_file.read_text()), load_with_llamafactory(lf_file.parent, tmp_path))


def test_pairs_of_turns_are_loaded_without_a_warning(tmp_path):
    lf_file = tmp_path / "data" / "demo.json"
    options = ConvertOptions(SelectionRules("all"), pairs=PairRules("turn"), num_workers=1)
    convert(HarborJob(ATTEMPTS), tmp_path / "demo.jsonl", lf_file, options)
    register(lf_file.parent, "demo", lf_file, "pairs")
    rows = json.loads(lf_file.read_text())
    loaded = load_with_llamafactory(lf_file.parent, tmp_path)
    assert len(loaded) == len(rows) > 0
    for row, seen in zip(rows, loaded, strict=True):
        both = [*row["conversations"], row["chosen"], row["rejected"]]
        assert seen["num_turns"] == sum(turn["from"] != "system" for turn in both)
        assert len(seen["calls"]) == sum(turn["from"] == "function_call" for turn in both)
        assert seen["has_tools"]


def test_rare_shapes_are_loaded_without_a_warning(tmp_path):
    """Turns with and without every extra key, in one file of more than one Arrow block."""

    def call(identity, **arguments):
        return ToolCall(identity, "bash", json.dumps(arguments))

    filler = [
        Trajectory([Message("user", "x" * 20_000), Message("assistant", "y")]) for _ in range(800)
    ]
    rare = Trajectory(
        [
            Message("user", "one"),
            Message("user", "two {{idx}}"),
            Message("assistant", "t", "r", [call("a", x=None), call("", y="</tool_call>")], 0.5),
            Message("tool", "1", tool_call_id="a"),
            Message("tool", "2"),
            Message("user", "reminder"),
            Message("assistant", "", "", [call("c", big=2**70, text="\u4e2d")], weight=0.0),
        ],
        tools=[{"type": "function", "function": {"name": "bash", "parameters": {}}}],
    )
    rows = [to_sharegpt(trajectory) for trajectory in [*filler, rare]]
    lf_file = tmp_path / "data" / "demo.json"
    lf_file.parent.mkdir()
    with lf_file.open("wb") as file:
        writer = RowWriter(file)
        for row in rows:
            writer.write(encode_json(row))
        writer.close()
    register(lf_file.parent, "demo", lf_file, "structured")
    check(rows, load_with_llamafactory(lf_file.parent, tmp_path))
