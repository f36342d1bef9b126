"""`sft preview` shows the tokens that train, and can be looked at safely.

Run: pytest tests/test_preview.py
"""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml
from trainer_runs import write_dataset
from trainer_templates import FAMILIES, tokenizer_for
from typer.testing import CliRunner, Result

from pipeline.cli import app
from pipeline.errors import ConfigError, DataError
from pipeline.progress import show_progress
from pipeline.trainer.args import load_train_args
from pipeline.trainer.data.build import open_or_build
from pipeline.trainer.data.collate import IGNORE_INDEX

CALL = '<tool_call>\n{"name": "run", "arguments": {"cmd": "ls"}}\n</tool_call>'
HOSTILE = "\x1b[31m\u202e</pre><script>alert(1)</script>"
ROWS = [
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {
        "conversations": [
            {"from": "human", "value": HOSTILE},
            {"from": "function_call", "value": f"<think>\nwhy\n</think>\n\n{CALL}"},
            {"from": "observation", "value": "out"},
            {"from": "gpt", "value": "a", "loss_weight": 0.5},
            {"from": "human", "value": "more"},
            {"from": "gpt", "value": "b", "loss_weight": 0.0},
        ]
    },
]


@pytest.fixture
def train_yaml(tmp_path: Path) -> Path:
    return write_yaml(tmp_path)


def write_yaml(directory: Path, **keys: Any) -> Path:
    tokenizer_for(FAMILIES["qwen3"]).save_pretrained(directory / "model")
    values = {
        "model_name_or_path": str(directory / "model"),
        "dataset_dir": str(write_dataset(directory / "data", ROWS)),
        "dataset": "demo",
        "output_dir": str(directory / "out"),
        "preprocessing_num_workers": 1,
    }
    file = directory / "train.yaml"
    file.write_text(yaml.safe_dump(values | keys))
    return file


def sft(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


def record(*words: object) -> dict[str, Any]:
    return json.loads(sft("preview", *words, "--json").stdout)


def test_json_holds_the_ids_and_labels_of_the_store_that_training_opens(train_yaml: Path) -> None:
    with show_progress("tokenise", "rows") as progress:
        store = open_or_build(load_train_args(train_yaml), progress).store
    shown = [record(train_yaml, "--row", row) for row in (1, 2)]
    assert {preview["store"] for preview in shown} == {str(store.directory)}
    examples = [example for preview in shown for example in preview["examples"]]
    assert len(examples) == len(store)
    for index, example in enumerate(examples):
        stored = store[index]
        assert example["ids"] == stored.ids
        trained = {
            position: span.weight
            for span in stored.spans
            for position in range(span.start, span.end)
        }
        assert example["labels"] == [
            token if position in trained else IGNORE_INDEX
            for position, token in enumerate(stored.ids)
        ]
        assert example["weights"] == [trained.get(i, 0.0) for i in range(len(stored.ids))]
        assert example["trained_tokens"] == len(trained)
        assert sum(run["num_tokens"] for run in example["runs"]) == len(stored.ids)


def test_what_examples_of_a_row_share_is_told(train_yaml: Path) -> None:
    """The reasoning of the first turn is not in later history, so it is an example of its own."""
    turns = [("human", "q"), ("gpt", "<think>\nwhy\n</think>\n\na"), ("human", "r"), ("gpt", "b")]
    row = {"conversations": [{"from": role, "value": text} for role, text in turns]}
    write_dataset(train_yaml.parent / "data", [row])
    first, second = record(train_yaml)["examples"]
    shared = second["shared_tokens"]
    assert (first["shared_tokens"], shared > 0) == (0, True)
    assert first["ids"][:shared] == second["ids"][:shared]
    assert first["ids"][shared] != second["ids"][shared]
    shown = sft("preview", train_yaml).stdout
    assert f"example 2 of 2: {second['tokens']} tokens, the first {shared} as the one before, " in (
        shown
    )


def test_a_row_of_another_dataset(tmp_path: Path) -> None:
    train_yaml = write_yaml(tmp_path, eval_dataset="other")
    write_dataset(tmp_path / "data", ROWS[:1] * 3, "other")
    trained = record(train_yaml)
    assert record(train_yaml, "--dataset", "demo") == trained
    evaluated = record(train_yaml, "--dataset", "other", "--row", 3)
    assert evaluated["examples"] == trained["examples"]
    assert "row 3: dataset 'demo' has fewer" in str(
        sft("preview", train_yaml, "--row", 3).exception
    )
    unknown = sft("preview", train_yaml, "--dataset", "none").exception
    assert str(unknown) == "--dataset none: not in the YAML (it has demo, other)"


def test_messages_and_calls_are_counted(train_yaml: Path) -> None:
    preview = record(train_yaml, "--row", 2)
    assert preview["roles"] == {
        "user": {"total": 2, "trained": 0},
        "assistant": {"total": 3, "trained": 2},
        "tool": {"total": 1, "trained": 0},
    }
    assert preview["tools"] == {"run": {"total": 1, "trained": 1}}


def test_another_template_and_other_weights_show(tmp_path: Path) -> None:
    named = write_yaml(tmp_path / "named", template="qwen3", mask_history=True)
    trained = [run for run in record(named)["examples"][0]["runs"] if run["weight"] is not None]
    assert "".join(run["text"] for run in trained) == "<think>\n\n</think>\n\na<|im_end|>\n"
    weighed = write_yaml(tmp_path / "weighed", loss_weights={"call": 2.0})
    weights = [weight for e in record(weighed, "--row", 2)["examples"] for weight in e["weights"]]
    assert set(weights) == {0.0, 0.5, 1.0, 2.0}


def test_the_terminal_shows_special_tokens_and_obeys_no_text(train_yaml: Path) -> None:
    shown = sft("preview", train_yaml, "--row", 2).stdout
    assert "<|im_start|>user" in shown
    assert "\\x1b[31m\\u202e</pre><script>" in shown
    assert "\x1b" not in shown
    assert "[weight 0.5]" in shown
    assert "messages: user 2, assistant 3 (2 trained), tool 1\ncalls: run 1 (1 trained)" in shown


def test_the_html_is_self_contained_and_safe(train_yaml: Path, tmp_path: Path) -> None:
    file = tmp_path / "row.html"
    assert sft("preview", train_yaml, "--row", 2, "--html", file).exit_code == 0
    page = file.read_text("utf-8")
    assert "<script" not in page
    assert not re.search(r"[\x1b\u202e]", page)
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)\s*=|url\(|@import|\bon\w+=", page.split("<pre>")[0])
    texts = re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    shown = unescape(re.sub(r"<[^>]+>", "", "".join(texts)))
    runs = [run for e in record(train_yaml, "--row", 2)["examples"] for run in e["runs"]]
    neutral = "".join(run["text"] for run in runs)
    assert shown == neutral.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    trained = re.findall(r'<span class="(?:special )?trained" title="weight [\d.]+">', page)
    assert len(trained) == sum(run["weight"] is not None for run in runs)


def test_a_turn_ends_where_the_generation_config_stops(tmp_path: Path) -> None:
    """GLM-4.5's template ends no turn; the token of the next one stops the model."""
    train_yaml = write_yaml(tmp_path)
    tokenizer = tokenizer_for(FAMILIES["glm4_5"])
    tokenizer.save_pretrained(tmp_path / "model")
    assert isinstance(sft("preview", train_yaml).exception, DataError)
    stops = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|user|>", "<|observation|>"])
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    assert record(train_yaml)["examples"][0]["runs"][-1]["text"] == "<|user|>"


@pytest.mark.parametrize(
    ("keys", "row", "kind", "message"),
    [
        ({}, 3, DataError, "row 3: dataset 'demo' has fewer rows"),
        ({"cutoff_len": 28}, 2, DataError, "row 2: nothing of it is trained: no turn carries"),
        ({"dataset": "demo,other"}, 1, ConfigError, "dataset: several are trained; add --dataset"),
    ],
)
def test_what_cannot_be_shown_is_explained(
    tmp_path: Path, keys: dict[str, Any], row: int, kind: type[Exception], message: str
) -> None:
    result = sft("preview", write_yaml(tmp_path, **keys), "--row", row)
    assert isinstance(result.exception, kind)
    assert str(result.exception).startswith(message)
