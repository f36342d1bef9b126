"""Stage pt: every token of a text carries loss, once, whatever the lengths.

Run: pytest tests/test_trainer_text.py
The part that compares with LLaMA-Factory: LLAMAFACTORY_PYTHON=<interpreter> pytest -m llamafactory
"""

import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from reference_loop import reference_run
from trainer_runs import losses, plan_of, tokenise, train_args
from transformers import AutoTokenizer

from pipeline.errors import ConfigError, DataError
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.collate import IGNORE_INDEX
from pipeline.trainer.data.example import Example
from pipeline.trainer.data.example_trees import ExampleTrees
from pipeline.trainer.data.load import load_micro_batch
from pipeline.trainer.data.neighbours import separate
from pipeline.trainer.data.rendering import Rendering
from pipeline.trainer.data.text import TextRenderer
from pipeline.trainer.preview.preview import preview_row
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

CUTOFF = 24

ENCODE = """
import json, sys
from llamafactory.data.converter import AlpacaDatasetConverter
from llamafactory.data.parser import DatasetAttr
from llamafactory.data.processor import PretrainDatasetProcessor
from llamafactory.hparams import DataArguments
from transformers import AutoTokenizer

texts_file, tokenizer_dir, cutoff, out = sys.argv[1:]
texts = json.load(open(texts_file))
attributes = DatasetAttr("file", dataset_name="texts")
attributes.join({"columns": {"prompt": "text"}})
result = []
for packing in (False, True):
    arguments = DataArguments(cutoff_len=int(cutoff), packing=packing)
    convert = AlpacaDatasetConverter(attributes, arguments)
    prompts = {"_prompt": [convert({"text": text})["_prompt"] for text in texts]}
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    processor = PretrainDatasetProcessor(None, tokenizer, None, arguments)
    result.append(processor.preprocess_dataset(prompts)["input_ids"])
json.dump(result, open(out, "w"))
"""


def _texts(count: int = 23, seed: int = 0) -> list[str]:
    """Of one word to three times CUTOFF."""
    draw = random.Random(seed)
    words = "the file was read and then one test of it failed again\n so we fix".split(" ")
    return [" ".join(draw.choices(words, k=draw.randint(1, 70))) for _ in range(count)]


def _dataset(directory: Path, name: str, entry: dict[str, Any] | None = None) -> Path:
    """`_texts` in a file of this name, registered. Returns: the dataset directory."""
    directory.mkdir()
    rows = [{"text": text} for text in _texts()]
    lines = [json.dumps(row) for row in rows]
    if name.endswith(".txt"):
        lines = [line for text in _texts() for line in (text.replace("\n", " "), "")]
    content = json.dumps(rows) if name.endswith(".json") else "\n".join(lines)
    (directory / name).write_text(content, "utf-8")
    entry = {"file_name": name, "columns": {"prompt": "text"}} | (entry or {})
    (directory / "dataset_info.json").write_text(json.dumps({"demo": entry}), "utf-8")
    return directory


def _args(model: Path, dataset_dir: Path, **changes: Any) -> TrainArgs:
    given = {"stage": "pt", "cutoff_len": CUTOFF, **changes}
    return train_args(model, dataset_dir, dataset_dir.parent / "run", **given)


def _renderer(model: Path) -> TextRenderer:
    return TextRenderer(AutoTokenizer.from_pretrained(model))


@pytest.mark.usefixtures("rank_of_its_own")
def test_a_run_on_texts_equals_the_plain_reference_loop(tiny_model: Path, tmp_path: Path) -> None:
    args = _args(tiny_model, _dataset(tmp_path / "data", "texts.jsonl"))
    train(args, StopRequest())
    plan, data = plan_of(args)
    assert plan.capacity == CUTOFF, "stage pt packs unless told otherwise"
    batches = [
        [example for document in plan.global_batch(step) for example in data.examples(document)]
        for step in range(1, 7)
    ]
    expected, _ = reference_run(args, batches)
    assert losses(Path(args.output_dir)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("concatenates", [False, True])
def test_every_token_of_a_text_is_predicted_once(
    tiny_model: Path, tmp_path: Path, concatenates: bool
) -> None:
    args = _args(tiny_model, _dataset(tmp_path / "data", "texts.json"))
    report = tokenise(args)
    renderer = _renderer(tiny_model)
    data = ExampleTrees(report.store, separate(report.store))
    for row, text in enumerate(_texts()):
        [whole] = renderer.row_examples({"text": text})
        predicted: list[int] = []
        blocks = [i for i in range(len(data)) if data.rows_of(i) == [row]]
        for block in blocks:
            assert data.num_tokens(block) <= CUTOFF
            batch = load_micro_batch(data, [block], concatenates=concatenates)
            predicted += batch.labels[batch.labels != IGNORE_INDEX].tolist()
        assert predicted == whole.ids[1:]
        assert sum(map(data.loss_weight, blocks)) == len(predicted)
    counts = report.store.counts
    assert counts.longest > 2 * CUTOFF, "several blocks belong to this test"
    assert (counts.rows_rejected, counts.turns_over_cutoff, counts.rows_over_cutoff) == (0, 0, 0)


def _stored(model: Path, dataset_dir: Path) -> list[Example]:
    store = tokenise(_args(model, dataset_dir)).store
    return [store[index] for index in range(len(store))]


def test_the_kind_of_file_does_not_matter(tiny_model: Path, tmp_path: Path) -> None:
    lines = _stored(tiny_model, _dataset(tmp_path / "lines", "texts.jsonl"))
    array = _stored(tiny_model, _dataset(tmp_path / "array", "texts.json"))
    plain = _stored(tiny_model, _dataset(tmp_path / "plain", "texts.txt"))
    assert lines == array
    assert len(plain) == len(lines), "blank lines are no texts"
    args = _args(tiny_model, tmp_path / "plain")
    found = preview_row(args, 1)
    text = "".join(run.text for example in found.examples for run in example.runs)
    assert text.startswith(_texts()[0].split("\n")[0][:20])


def test_columns_say_where_the_text_is(tiny_model: Path, tmp_path: Path) -> None:
    dataset_dir = _dataset(tmp_path / "data", "texts.json", {"columns": {}})
    rows = [{"instruction": "first", "input": "second"}, {"instruction": "third", "input": ""}]
    rows += [{"input": 3}, {"text": "elsewhere"}, {"instruction": "<|im_end|>"}]
    (dataset_dir / "texts.json").write_text(json.dumps(rows))
    report = tokenise(_args(tiny_model, dataset_dir))
    renderer = _renderer(tiny_model)
    store = report.store
    expected = [renderer.row_examples({"text": text})[0] for text in ("first\nsecond", "third")]
    assert [store[index] for index in range(len(store))] == expected
    rejected = (store.directory / "rejected.jsonl").read_text().splitlines()
    reasons = [json.loads(line)["message"] for line in rejected]
    assert reasons[:2] == ["column 'instruction': not a text", "column 'instruction' is missing"]
    assert reasons[2].startswith("text: the text contains <|im_end|>, a special token")


def test_conversations_and_texts_are_not_mixed_up(tiny_model: Path, tmp_path: Path) -> None:
    texts = _dataset(tmp_path / "texts", "texts.json")
    with pytest.raises(DataError, match="demo: formatting must be sharegpt for stage sft"):
        tokenise(_args(tiny_model, texts, stage="sft"))
    chats = _dataset(tmp_path / "chats", "texts.json", {"formatting": "sharegpt"})
    with pytest.raises(DataError, match="demo: formatting must be alpaca for stage pt"):
        tokenise(_args(tiny_model, chats))


def test_keys_about_turns_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    texts = _dataset(tmp_path / "texts", "texts.json")
    with pytest.raises(ValueError, match="stage pt cuts texts into blocks of cutoff_len tokens"):
        _args(tiny_model, texts, cutoff_policy="window")
    for changes in ({"template": "qwen3"}, {"train_on_prompt": True}):
        with pytest.raises(ConfigError, match=r"training\.\w+: is for conversations"):
            Rendering.of(_args(tiny_model, texts, **changes))


@pytest.mark.llamafactory
def test_the_ids_are_those_of_llamafactory(tiny_model: Path, tmp_path: Path) -> None:
    python = os.environ.get("LLAMAFACTORY_PYTHON")
    if not python:
        pytest.skip("LLAMAFACTORY_PYTHON is not set")
    stub = tmp_path / "stubs" / "torchaudio"  # imported by it for text data as well
    stub.mkdir(parents=True)
    (stub / "__init__.py").touch()
    (tmp_path / "texts.json").write_text(json.dumps(_texts()))
    files = [tmp_path / "texts.json", tiny_model, CUTOFF, tmp_path / "out.json"]
    finished = subprocess.run(
        [python, "-c", ENCODE, *map(str, files)],
        env=os.environ | {"PYTHONPATH": str(stub.parent), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    apart, joined = json.loads((tmp_path / "out.json").read_text())
    renderer = _renderer(tiny_model)
    ours = [renderer.row_examples({"text": text})[0].ids for text in _texts()]
    assert apart == [ids[:CUTOFF] for ids in ours]
    theirs = [token for block in joined for token in block]
    assert theirs == [token for ids in ours for token in ids][: len(theirs)]
    assert sum(map(len, ours)) - len(theirs) < CUTOFF, "it drops what fills no block"
