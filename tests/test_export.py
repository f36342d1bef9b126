"""Exports: rows as each target defines them, arguments and schemas unchanged, no deviation unsaid.

Run: pytest tests/test_export.py
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from export_samples import BASH, EDIT, SAMPLES, agent, crowded, sample_im, weighted, write_im
from memory_files import MemoryFiles
from pyarrow import parquet
from sft_command import error_of, sft, write_config
from transformers import AutoTokenizer
from typer.testing import CliRunner

from pipeline import cli
from pipeline.errors import ConfigError, DataError
from pipeline.export import files
from pipeline.export.axolotl import to_axolotl
from pipeline.export.chat import trained_part
from pipeline.export.deviations import Deviation, lines_of
from pipeline.export.export import export_im
from pipeline.export.ms_swift import to_ms_swift
from pipeline.export.openai_messages import to_openai
from pipeline.export.rendered import to_rendered
from pipeline.export.source import read_records
from pipeline.export.targets import TARGETS, find_target
from pipeline.export.trl import is_read_exactly, to_trl
from pipeline.export.verl import CHAT_TEMPLATE, to_verl
from pipeline.scaffolds import SCAFFOLDS
from pipeline.sharegpt import detect_format, from_sharegpt, to_sharegpt
from pipeline.trainer.data.render import Renderer
from pipeline.trajectory import Message, Trajectory, chat_messages

GOLDENS = sorted((Path(__file__).parent / "data").glob("*/im.jsonl"))


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def golden_im(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("im") / "im.jsonl"
    path.write_bytes(b"".join(golden.read_bytes() for golden in GOLDENS))
    return path


def export(im: Path, out: Path, name: str, tokenizer: Any = None) -> Counter[Deviation]:
    target = find_target(name)
    return export_im(im, out, target, tokenizer if target.is_rendered else None).deviations


def rows_of(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".parquet":
        return parquet.read_table(file).to_pylist()
    text = file.read_text("utf-8")
    return json.loads(text) if file.suffix == ".json" else list(map(json.loads, text.splitlines()))


def loaded(file: Path, cache: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file as `datasets` gives them to a trainer."""
    import datasets

    return list(datasets.Dataset.from_parquet(str(file), cache_dir=str(cache)))  # type: ignore


def test_openai_row_keeps_the_arguments_as_emitted_and_masks_context():
    exported = to_openai(agent())
    messages = exported.row["messages"]
    assert [m["role"] for m in messages] == [m.role for m in agent().messages]
    assert messages[2] == {
        "role": "assistant",
        "content": "Let me look.",
        "reasoning_content": "first thought",
        "tool_calls": [
            {
                "id": "a",
                "type": "function",
                "function": {"name": "bash", "arguments": '{"command": "ls",  "cwd": null}'},
            }
        ],
    }
    assert messages[3] == {"role": "tool", "content": "a.py\n", "tool_call_id": "a"}
    assert [m.get("weight") for m in messages] == [None] * 7 + [0, None, None]
    assert exported.row["tools"] == [BASH, EDIT]
    assert exported.deviations == {}


def test_our_own_reader_of_messages_reads_the_openai_rows_back(golden_im: Path, tmp_path: Path):
    export(golden_im, tmp_path / "openai.jsonl", "openai")
    data = (tmp_path / "openai.jsonl").read_bytes()
    parsed = SCAFFOLDS["openai-messages"].parse(MemoryFiles({"openai.jsonl": data})).read_all()
    conversations = list(parsed.conversations)
    trajectories = [record.trajectory for _, record in read_records(golden_im)]
    assert len(conversations) == len(trajectories)
    for read, trajectory in zip(conversations, trajectories, strict=True):
        expected, _ = trained_part(trajectory.messages)
        for message in expected:  # the format has neither
            message.weight, message.is_error = float(message.weight > 0), False
        assert (read.messages, read.tools) == (expected, trajectory.tools)


def test_messages_after_the_last_trained_turn_are_left_out_and_counted():
    for convert in (to_openai, to_ms_swift, to_axolotl, to_trl):
        exported = convert(weighted())
        assert exported.deviations[Deviation.AFTER_LAST_TRAINED] == 2
        assert len(exported.row["messages"]) == 4


def test_weights_reach_the_targets_that_have_them_and_are_counted_for_the_others():
    halves = {Deviation.WEIGHT_TRAINED_FULLY: 1, Deviation.AFTER_LAST_TRAINED: 2}
    assert to_openai(weighted()).deviations == halves
    assert to_axolotl(weighted()).deviations == halves
    assert to_trl(weighted()).deviations == halves
    assert to_trl(agent()).deviations == {Deviation.CONTEXT_TRAINED: 1}
    assert to_ms_swift(weighted()).deviations == {Deviation.AFTER_LAST_TRAINED: 2}
    assert [m.get("loss_scale") for m in to_ms_swift(weighted()).row["messages"]] == [
        *(None, 0.5, None, None)
    ]
    train = [m.get("train") for m in to_axolotl(agent()).row["messages"]]
    assert train == [None, None, True, None, True, None, None, False, None, True]


def test_each_deviation_is_one_sentence_with_its_number():
    deviations = Counter(dict.fromkeys(Deviation, 1234))
    assert all("1,234" in line for line in lines_of(deviations))
    assert len(lines_of(deviations)) == len(Deviation)
    assert lines_of(Counter({Deviation.CONTEXT_TRAINED: 12})) == [
        "12 context turns (weight 0) will be trained: the target has no mask"
    ]


def test_trl_rows_have_objects_and_no_nulls_when_loaded(tmp_path: Path):
    export(sample_im(tmp_path / "im.jsonl"), tmp_path / "trl.parquet", "trl")
    first, second, third = loaded(tmp_path / "trl.parquet", tmp_path / "cache")
    assert first["tools"] == [BASH, EDIT]
    assert second["tools"] == []
    expected = chat_messages(agent())
    for message in expected:
        message.pop("weight", None)
    assert first["messages"] == expected
    assert third["messages"][2]["tool_calls"][0]["function"]["arguments"] == {
        "command": "sum",
        "limit": "1180591620717411303424",
    }


@pytest.mark.parametrize(
    ("document", "exactly"),
    [
        ('{"a": 18446744073709551615, "b": -9223372036854775808, "c": 0.1, "d": 1e22}', True),
        ('{"a": 18446744073709551616}', False),
        ('{"a": [-9223372036854775809]}', False),
        ('{"a": 2.5066282746310002}', False),
        ('{"a": 0.000000123456789012345}', False),
        ('{"a": "18446744073709551616"}', True),
    ],
)
def test_numbers_that_datasets_would_change_are_found(document: str, exactly: bool):
    assert is_read_exactly(document) == exactly


def test_numbers_that_datasets_would_change_become_texts_and_are_counted():
    assert to_trl(crowded()).deviations == {Deviation.NUMBERS_AS_TEXT: 1}
    assert to_trl(agent()).deviations == {Deviation.CONTEXT_TRAINED: 1}
    bad = {"type": "function", "function": {"name": "f", "maximum": 2**70}}
    with pytest.raises(DataError, match=r"tools\[0\]: holds a number that datasets cannot read"):
        to_trl(Trajectory(agent().messages, [bad]))


def test_ms_swift_row_has_one_tool_call_message_per_call():
    messages = to_ms_swift(agent()).row["messages"]
    assert [m["role"] for m in messages] == [
        *("system", "user", "assistant", "tool_call", "tool_response", "assistant"),
        *("tool_call", "tool_call", "tool_response", "tool_response"),
        *("tool_call", "tool_response", "assistant"),
    ]
    assert messages[2]["content"] == "<think>\nfirst thought\n</think>\n\nLet me look."
    assert messages[3]["content"] == ('{"name":"bash","arguments":{"command": "ls",  "cwd": null}}')
    assert messages[10] == {
        "role": "tool_call",
        "content": '{"name":"bash","arguments":{"command": "oops"}}',
        "loss": False,
    }


def test_ms_swift_row_has_no_user_message_behind_a_result_or_another():
    exported = to_ms_swift(crowded())
    roles = [message["role"] for message in exported.row["messages"]]
    assert roles == ["user", "assistant", "tool_call", "tool_response", "assistant"]
    assert exported.row["messages"][0]["content"] == "one\n\ntwo"
    assert exported.row["messages"][3]["content"] == "out\n\nreminder"
    assert exported.deviations == {Deviation.USER_TURNS_JOINED: 2}


def test_ms_swift_and_axolotl_rows_are_of_one_arrow_type(tmp_path: Path):
    im = sample_im(tmp_path / "im.jsonl")
    for name, convert in (("ms-swift", to_ms_swift), ("axolotl", to_axolotl)):
        export(im, tmp_path / f"{name}.parquet", name)
        rows = loaded(tmp_path / f"{name}.parquet", tmp_path / "cache")
        for row, sample in zip(rows, SAMPLES, strict=True):
            expected = convert(sample()).row
            assert without_nulls(row) == expected
            assert json.loads(row["tools"]) == sample().tools
    call = rows[0]["messages"][2]["tool_calls"][0]
    assert call["function"]["arguments"] == '{"command": "ls",  "cwd": null}'


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def chatml(turns: list[dict[str, Any]]) -> str:
    return "".join(f"<|im_start|>{t['role']}\n{t['content']}<|im_end|>\n" for t in turns)


def template_text(trajectory: Trajectory, tokenizer: Any) -> str:
    return tokenizer.apply_chat_template(
        chat_messages(trajectory), tools=trajectory.tools or None, tokenize=False
    )


def test_rendered_turns_are_the_text_of_the_template(tokenizer: Any, golden_im: Path):
    num_alike = 0
    trajectories = [record.trajectory for _, record in read_records(golden_im)]
    for trajectory in [*trajectories, agent(), weighted()]:
        exported = to_rendered(trajectory, tokenizer)
        if not exported.deviations[Deviation.USER_TURNS_JOINED]:
            assert chatml(exported.row["messages"]) == template_text(trajectory, tokenizer)
            num_alike += 1
    assert num_alike > 20


def test_rendered_rows_are_examples_that_the_native_engine_trains_as_they_are(tokenizer: Any):
    row = to_rendered(agent(), tokenizer).row
    assert detect_format(row) == "rendered"
    messages, tools = from_sharegpt(row)
    assert [m["weight"] for m in messages if m["role"] == "assistant"] == [1.0, 1.0, 0.0, 1.0]
    assert row["_trial_id"] == "acme__lib-7__x"
    plain = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    plain.chat_template = CHAT_TEMPLATE
    (example,) = Renderer(plain).examples(messages, tools)
    text = template_text(agent(), tokenizer).removesuffix("\n")
    assert example.ids == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_rendered_rows_say_what_the_template_does_not_show(tokenizer: Any):
    exported = to_rendered(weighted(), tokenizer)
    assert exported.deviations == {Deviation.REASONING_NOT_SHOWN: 1}
    assert [turn.get("loss_weight") for turn in exported.row["messages"]] == [
        *(None, 0.5, None, None, None, 0.0)
    ]
    crowd = to_rendered(crowded(), tokenizer)
    roles = [turn["role"] for turn in crowd.row["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert crowd.row["messages"][1]["content"] == "one\n\ntwo"
    assert crowd.deviations[Deviation.USER_TURNS_JOINED] == 2


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "the tokenizer has no chat template"),
        ("{% for m in messages %}[{{ m.content }}]{% endfor %}", "as ChatML turns"),
        ("{{ raise_exception('no tools, please') }}", "refuses this conversation: no tools"),
        ("<|im_start|>tool\nx<|im_end|>\n", "as ChatML turns"),
        ("<|im_start|>user\nx<|im_end|>\n", "shows 0 of 4 assistant turns"),
    ],
)
def test_templates_that_cannot_be_cut_are_refused(
    tokenizer: Any, template: str | None, message: str
):
    other = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    other.chat_template = template
    with pytest.raises(DataError, match=message):
        to_rendered(agent(), other)


def test_verl_renders_the_turns_one_by_one_to_the_text_of_the_whole(tokenizer: Any):
    plain = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    plain.chat_template = CHAT_TEMPLATE
    for sample in SAMPLES:
        turns = to_verl(sample(), tokenizer).row["messages"]
        alone = "".join(plain.apply_chat_template([turn], tokenize=False) for turn in turns)
        last = max(i for i, m in enumerate(sample().messages, 1) if m.weight and m.role[0] == "a")
        trained = Trajectory(sample().messages[:last], sample().tools)
        assert alone == template_text(trained, tokenizer)
        assert {key for turn in turns for key in turn} == {"role", "content"}
    assert to_verl(agent(), tokenizer).deviations == {Deviation.CONTEXT_TRAINED: 1}


@pytest.mark.parametrize("name", TARGETS)
def test_every_golden_is_one_row_in_order_and_the_same_bytes_again(
    name: str, golden_im: Path, tokenizer: Any, tmp_path: Path
):
    out = tmp_path / f"out{TARGETS[name].suffix}"
    export(golden_im, out, name, tokenizer)
    before = out.read_bytes()
    export(golden_im, out, name, tokenizer)
    assert out.read_bytes() == before
    trajectories = [record.trajectory for _, record in read_records(golden_im)]
    rows = rows_of(out)
    assert len(rows) == len(trajectories) > 30
    for row, trajectory in zip(rows, trajectories, strict=True):
        text = json.dumps(row, ensure_ascii=False)
        user = next(m.content for m in trajectory.messages if m.role == "user")
        assert json.dumps(user, ensure_ascii=False)[1:-1].split("\\")[0] in text


def test_lf_is_what_step_0_writes(golden_im: Path, tmp_path: Path):
    deviations = export(golden_im, tmp_path / "lf.json", "lf")
    expected = [to_sharegpt(record.trajectory) for _, record in read_records(golden_im)]
    assert rows_of(tmp_path / "lf.json") == expected
    weights = [turn for row in expected for turn in row["conversations"] if "loss_weight" in turn]
    assert deviations[Deviation.WEIGHT_IGNORED_UPSTREAM] == len(weights) > 0


def test_parquet_is_written_in_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    im = write_im(tmp_path / "im.jsonl", *(agent() for _ in range(20)))
    export(im, tmp_path / "one.parquet", "trl")
    monkeypatch.setattr(files, "_ROW_GROUP_BYTES", 4000)
    export(im, tmp_path / "many.parquet", "trl")
    assert parquet.ParquetFile(tmp_path / "one.parquet").num_row_groups == 1
    assert parquet.ParquetFile(tmp_path / "many.parquet").num_row_groups > 5
    assert rows_of(tmp_path / "many.parquet") == rows_of(tmp_path / "one.parquet")


@pytest.mark.parametrize("name", ["lf", "openai", "axolotl"])
def test_a_bad_line_is_named_and_the_earlier_file_stays(name: str, tmp_path: Path):
    im = write_im(tmp_path / "im.jsonl", agent(), Trajectory([Message("user", "hi")]))
    out = tmp_path / f"out{TARGETS[name].suffix}"
    out.write_bytes(b"earlier")
    with pytest.raises(DataError, match=r"im\.jsonl:2: .*; correct or remove this line"):
        export(im, out, name)
    assert out.read_bytes() == b"earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["im.jsonl", out.name]


def test_a_file_without_a_record_is_refused(tmp_path: Path):
    (tmp_path / "im.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match=r"im\.jsonl: holds no record; name an IM file"):
        export(tmp_path / "im.jsonl", tmp_path / "out.parquet", "trl")
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read \(No such file"):
        export(tmp_path / "none.jsonl", tmp_path / "out.parquet", "trl")
    assert [path.name for path in tmp_path.iterdir()] == ["im.jsonl"]


def test_an_unknown_target_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="got 'alpaca'.*one of lf, lf-rendered, openai, trl"):
        find_target("alpaca")


def test_the_command_exports_to_every_target(tmp_path: Path):
    im = sample_im(tmp_path / "im.jsonl")
    config = write_config(tmp_path / "config.yaml")
    told = {}
    for name, target in TARGETS.items():
        out = tmp_path / f"{name}{target.suffix}"
        arguments = ["export", str(im), "--to", name, "--out", str(out), "--config", str(config)]
        done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        assert done.stdout.startswith(f"3 examples -> {out}; next: ")
        assert len(rows_of(out)) == 3
        told[name] = done.stderr
    assert "rendered with the chat template of builtin:tiny-qwen3\n" in told["verl"]
    assert "1 context turns (weight 0) will be trained: the target has no mask\n" in told["trl"]


def test_another_model_than_the_config_s_renders_on_request(tmp_path: Path, tiny_model: Path):
    im = sample_im(tmp_path / "im.jsonl")
    out = tmp_path / "out.json"
    done = sft("export", im, "--to", "lf-rendered", "--out", out, "--model", tiny_model)
    assert f"rendered with the chat template of {tiny_model}" in done.stderr
    assert len(rows_of(out)) == 3


def test_the_command_counts_in_json(tmp_path: Path):
    im = sample_im(tmp_path / "im.jsonl")
    out = tmp_path / "out.parquet"
    done = sft("export", im, "--to", "ms-swift", "--out", out, "--json")
    summary = json.loads(done.stdout)
    assert summary.pop("seconds") > 0
    assert summary == {
        "to": "ms-swift",
        "out": str(out),
        "examples": 3,
        "deviations": {"messages_after_last_trained_turn": 2, "user_turns_joined": 2},
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "trl", "--out", "x.jsonl"], "--out: x.jsonl: the loader of trl goes by the"),
        (["--to", "alpaca", "--out", "x.json"], "--to: no such target (got 'alpaca')"),
        (["--to", "openai", "--out", "x.jsonl", "--model", "m"], "--model: has no effect with"),
    ],
)
def test_the_command_refuses_what_cannot_be_meant(
    arguments: list[str], message: str, tmp_path: Path
):
    done = sft("export", sample_im(tmp_path / "im.jsonl"), *arguments)
    assert done.returncode == 2
    assert error_of(done).startswith(message)


def test_the_command_never_replaces_its_source(tmp_path: Path):
    im = sample_im(tmp_path / "im.jsonl")
    done = sft("export", im, "--to", "openai", "--out", im)
    assert done.returncode == 2
    assert "is the source" in error_of(done)


def test_the_page_on_exports_lists_every_target_with_its_suffix():
    page = (Path(__file__).parent.parent / "docs" / "export.md").read_text("utf-8")
    for name, target in TARGETS.items():
        assert f"| `{name}` | `{target.suffix}` |" in page
    for line in re.findall(r"^(\d+) (.*)$", page, re.MULTILINE):
        assert " ".join(line) in lines_of(Counter({kind: int(line[0]) for kind in Deviation}))
