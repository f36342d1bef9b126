"""Property: the score that STEP 0 gives a trajectory is the one that curriculum score goes by.

Run: pytest tests/test_trainer_score.py
"""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from trainer_runs import ROOT, conversations, plan_of, tokenise, train_args, write_dataset
from typer.testing import CliRunner, Result

from pipeline.cli import app
from pipeline.step1_register import register
from pipeline.trainer.data.store import REJECTED_FILE


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """im.jsonl and lf.json of the example job."""
    directory = tmp_path_factory.mktemp("converted")
    files = {name: directory / name for name in ("im.jsonl", "lf.json", "rejected.jsonl")}
    options = zip(("--im", "--lf", "--rejected"), files.values(), strict=True)
    done = _sft("convert", ROOT / "examples" / "job", *(word for pair in options for word in pair))
    assert done.exit_code == 0, done.output
    return directory


def _sft(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


def _im_scores(im_file: Path) -> list[str]:
    labels = [json.loads(line)["meta_info"]["unique_info"] for line in im_file.open()]
    scores = [(label["_score"] or {}).get("composite_score") for label in labels]
    return ["" if score is None else str(score) for score in scores]


def test_examples_have_the_score_of_their_trajectory(converted: Path) -> None:
    rows = json.loads((converted / "lf.json").read_bytes())
    scores = [row["_score"] for row in rows]
    assert scores == _im_scores(converted / "im.jsonl")
    assert len(set(scores)) > 5
    assert _sft("sharegpt", converted / "im.jsonl", "--lf", converted / "again.json").exit_code == 0
    assert (converted / "again.json").read_bytes() == (converted / "lf.json").read_bytes()


def test_arrow_reads_rows_with_and_without_a_score(converted: Path, tmp_path: Path) -> None:
    """As LLaMA-Factory loads them, and in chunks: the first may hold no score at all."""
    rows = json.loads((converted / "lf.json").read_bytes())
    unscored = [row | {"_score": ""} for row in rows]
    file = tmp_path / "lf.json"
    file.write_text("\n".join(map(json.dumps, unscored + rows)))
    found = load_dataset(
        "json", data_files=str(file), split="train", cache_dir=str(tmp_path), chunksize=1 << 16
    )
    assert found["_score"] == [row["_score"] for row in unscored + rows]


def test_the_curriculum_goes_from_the_highest_score_to_the_lowest(
    converted: Path, tiny_model: Path, tmp_path: Path
) -> None:
    register(tmp_path / "data", "demo", converted / "lf.json", "structured")
    args = train_args(
        tiny_model,
        tmp_path / "data",
        tmp_path / "run",
        curriculum="score",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        max_steps=-1,
        num_train_epochs=1,
    )
    plan, data = plan_of(args)
    order = [i for step in range(plan.total_steps) for i in plan.global_batch(step + 1)]
    scores = _im_scores(converted / "im.jsonl")
    trained = [scores[data.rows_of(index)[0]] for index in order]
    known = [float(score) for score in trained if score]
    assert known == sorted(known, reverse=True)
    assert trained[len(known) :] == [""] * (len(trained) - len(known))


@pytest.mark.parametrize("value", ["high", [1], True, "nan"])
def test_a_score_that_is_no_number_is_told(tiny_model: Path, tmp_path: Path, value: Any) -> None:
    rows = conversations(3)
    rows[1]["_score"] = value
    rows[2]["_score"] = 1
    dataset_dir = write_dataset(tmp_path / "data", rows)
    store = tokenise(train_args(tiny_model, dataset_dir, tmp_path / "run")).store
    assert store.scores[-1] == 1
    [reject] = [json.loads(line) for line in (store.directory / REJECTED_FILE).open()]
    assert (reject["row"], reject["message"]) == (1, f"_score: not a number (got {value!r})")
