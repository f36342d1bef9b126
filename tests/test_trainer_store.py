"""Property: a token store holds exactly the examples of its inputs, and is reused only for them.

Run: pytest tests/test_trainer_store.py
"""

import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest
from trainer_runs import conversations, tokenise, train_args, write_dataset
from trainer_templates import CHATML

from pipeline.errors import DataError
from pipeline.sharegpt import from_sharegpt
from pipeline.step1_register import register
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data import build, chunks
from pipeline.trainer.data.dataset import find_datasets
from pipeline.trainer.data.document_table import (
    first_turn_ends,
    loss_spans,
    turns,
    whole_documents,
)
from pipeline.trainer.data.render import Example, Renderer, Span
from pipeline.trainer.data.shard import KEY_BYTES, Shard, ShardRow, write_shard
from pipeline.trainer.data.store import TokenStore
from pipeline.trainer.data.tally import Tally
from pipeline.trainer.data.tokenize import TokenizerSource


def _args(model: Path, dataset_dir: Path, **changes: Any) -> TrainArgs:
    return train_args(model, dataset_dir, dataset_dir / "run", **changes)


def _open(model: Path, dataset_dir: Path, **changes: Any) -> TokenStore:
    return tokenise(_args(model, dataset_dir, **changes)).store


def _contents(store: TokenStore) -> list[Any]:
    return [(store.row(i), store[i], store.loss_weight(i)) for i in range(len(store))]


def test_store_holds_the_rendered_examples_in_the_order_of_the_rows(
    tiny_model: Path, tmp_path: Path
) -> None:
    rows = conversations(5)
    store = _open(tiny_model, write_dataset(tmp_path, rows))
    renderer = Renderer(TokenizerSource(str(tiny_model), "main", False).load())
    expected = [
        (number, example)
        for number, row in enumerate(rows)
        for example in renderer.examples(*from_sharegpt(row))
    ]
    assert [(store.row(i), store[i]) for i in range(len(store))] == expected
    for index, (_, example) in enumerate(expected):
        assert store.num_tokens(index) == len(example.ids)
        weight = sum((span.end - span.start) * span.weight for span in example.spans)
        assert store.loss_weight(index) == pytest.approx(weight)
    assert store.counts.tokens == sum(len(example.ids) for _, example in expected)


def test_reopening_builds_nothing_and_gives_the_same_examples(
    tiny_model: Path, tmp_path: Path
) -> None:
    first = _open(tiny_model, write_dataset(tmp_path, conversations(5)))
    built_at = (first.directory / "store.json").stat().st_mtime_ns
    second = _open(tiny_model, tmp_path)
    assert (second.directory / "store.json").stat().st_mtime_ns == built_at
    assert _contents(second) == _contents(first)
    rebuilt = _open(tiny_model, tmp_path, overwrite_cache=True)
    assert (rebuilt.directory / "store.json").stat().st_mtime_ns > built_at


def test_every_change_of_the_input_gives_another_store(tiny_model: Path, tmp_path: Path) -> None:
    rows = conversations(3)
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    seen = [_open(model, write_dataset(tmp_path, rows)).fingerprint]
    seen.append(_open(model, tmp_path, cutoff_len=60).fingerprint)
    seen.append(_open(model, tmp_path, max_samples=2).fingerprint)
    rows[2]["conversations"][1]["value"] += "."
    seen.append(_open(model, write_dataset(tmp_path, rows)).fingerprint)
    template = model / "chat_template.jinja"
    template.write_text(template.read_text("utf-8").replace("# Tools", "# Functions"), "utf-8")
    seen.append(_open(model, tmp_path).fingerprint)
    assert len(set(seen)) == len(seen)


def _open_in_process(model: Path, dataset_dir: Path, results: Any) -> None:
    store = _open(model, dataset_dir)
    results.put((store.directory / "documents.npy").stat().st_ino)


def test_two_processes_at_once_build_once(tiny_model: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, conversations(200))
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [
        context.Process(target=_open_in_process, args=(tiny_model, tmp_path, results))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    inodes = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(inodes) == 1


def test_building_with_several_processes_gives_the_same_bytes(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "_SMALLEST_BYTES", 500)
    write_dataset(
        tmp_path, [*conversations(150), {"conversations": []}, *conversations(150, seed=1)]
    )
    serial = _open(tiny_model, tmp_path)
    before = _files(serial)
    assert sum(name.endswith(".shard") for name in before) > 5
    monkeypatch.setattr(build, "_PARALLEL_FROM_BYTES", 0)
    parallel = _open(tiny_model, tmp_path, preprocessing_num_workers=2, overwrite_cache=True)
    assert _files(parallel) == before


def _files(store: TokenStore) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in store.directory.iterdir()}


def test_rows_that_cannot_be_rendered_are_counted_and_listed(
    tiny_model: Path, tmp_path: Path
) -> None:
    marked = {"conversations": [{"from": "human", "value": "<|im_end|>"}]}
    marked["conversations"].append({"from": "gpt", "value": "a"})
    broken = [marked, {"conversations": []}, {"text": "no chat"}, {"conversations": ["a", "b"]}]
    broken.append({"conversations": [{"from": ["human"], "value": "a"}]})
    write_dataset(tmp_path, [conversations(1)[0], *broken, conversations(1)[0]])
    store = _open(tiny_model, tmp_path)
    assert (store.counts.rows, store.counts.rows_rejected) == (7, 5)
    assert {store.row(i) for i in range(len(store))} == {0, 6}
    lines = (store.directory / "rejected.jsonl").read_text("utf-8").splitlines()
    rejected = [json.loads(line) for line in lines]
    assert [(entry["dataset"], entry["row"]) for entry in rejected] == [
        ("demo", row) for row in range(1, 6)
    ]
    reasons = ("messages[0].content: the text contains <|im_end|>", "conversations: missing or")
    reasons += ("column 'conversations' is missing", "conversations[0].from: not a string")
    reasons += ("conversations[0].from: expected human or observation (got \"['human']\")",)
    for entry, reason in zip(rejected, reasons, strict=True):
        assert entry["message"].startswith(reason)


def test_cutoff_counts_what_it_leaves_out(tiny_model: Path, tmp_path: Path) -> None:
    rows = conversations(20)
    whole = _open(tiny_model, write_dataset(tmp_path, rows))
    lengths = sorted(whole.num_tokens(i) for i in range(len(whole)))
    cutoff_len = lengths[len(lengths) // 2]
    cut = _open(tiny_model, tmp_path, cutoff_len=cutoff_len)
    assert max(cut.num_tokens(i) for i in range(len(cut))) <= cutoff_len
    assert cut.counts.longest == lengths[-1]
    turns_before = sum(len(whole[i].spans) for i in range(len(whole)))
    turns_after = sum(len(cut[i].spans) for i in range(len(cut)))
    assert turns_after + cut.counts.turns_over_cutoff == turns_before
    left = {cut.row(i) for i in range(len(cut))}
    assert len(left) + cut.counts.rows_over_cutoff == len(rows)


def test_spans_that_touch_are_one_turn(tmp_path: Path) -> None:
    spans = [Span(2, 4, 0.5), Span(4, 9, 1.0), Span(12, 15, 1.0), Span(15, 20, 2.0)]
    examples = [Example(list(range(20)), spans), Example([1, 2, 3], [Span(1, 3, 1.0)])]
    write_shard(tmp_path / "a.shard", [ShardRow(bytes(KEY_BYTES), examples)], pad_token_id=0)
    shard = Shard(tmp_path / "a.shard")
    whole = whole_documents(shard, number=0, dataset=0, first_row=0)
    assert turns(loss_spans(shard, whole[0])) == [(2, 9), (12, 20)]
    assert first_turn_ends(shard, whole).tolist() == [9, 3]
    tally = Tally(cutoff_len=18, policy="truncate_turns")
    left = tally.add(shard, whole, "demo", 0)
    assert left["length"].tolist() == [9, 3]
    assert left["loss_weight"].tolist() == [0.5 * 2 + 5, 2]
    assert tally.counts().turns_over_cutoff == 1


def test_nothing_to_train_on_is_an_error_that_says_why(tiny_model: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, conversations(2))
    with pytest.raises(DataError) as caught:
        _open(tiny_model, tmp_path, cutoff_len=3)
    shortest = _open(tiny_model, tmp_path).counts.shortest
    assert str(caught.value) == (
        f"cutoff_len: no example fits into 3 tokens; the shortest needs {shortest}; "
        "raise training.cutoff_len"
    )
    with pytest.raises(DataError, match=r"the dataset has no rows; .*STEP 0"):
        _open(tiny_model, write_dataset(tmp_path, []))
    with pytest.raises(
        DataError, match=r"none of the 1 rows can be trained on; the first: dataset demo: row 0: "
    ):
        _open(tiny_model, write_dataset(tmp_path, [{"conversations": []}]))
    unweighted = conversations(1)
    for turn in unweighted[0]["conversations"][1::2]:
        turn["loss_weight"] = 0
    with pytest.raises(DataError, match="the first: no assistant turn has loss weight above 0"):
        _open(tiny_model, write_dataset(tmp_path, unweighted))


def test_max_samples_counts_rows_of_each_dataset(tiny_model: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, conversations(5))
    write_dataset(tmp_path, conversations(4, seed=1), name="other")
    assert _open(tiny_model, tmp_path, dataset="demo, other", max_samples=3).counts.rows == 6


def test_columns_and_tags_are_read_as_registered(tiny_model: Path, tmp_path: Path) -> None:
    rows = conversations(2)
    expected = _contents(_open(tiny_model, write_dataset(tmp_path, rows)))
    roles = {"human": "user", "gpt": "assistant"}
    renamed = [
        {
            "chat": [
                {"role": roles[turn["from"]], "text": turn["value"], **_rest(turn)}
                for turn in row["conversations"]
            ]
        }
        for row in rows
    ]
    write_dataset(tmp_path, renamed, name="renamed")
    info = json.loads((tmp_path / "dataset_info.json").read_bytes())
    info["renamed"] |= {
        "columns": {"messages": "chat"},
        "tags": {
            "role_tag": "role",
            "content_tag": "text",
            "user_tag": "user",
            "assistant_tag": "assistant",
        },
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    assert _contents(_open(tiny_model, tmp_path, dataset="renamed")) == expected


def test_text_that_is_rendered_already_is_trained_verbatim(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Registered with column `messages`; the template knows nothing of reasoning."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "chat_template.jinja").write_text(CHATML, "utf-8")
    turns = [{"role": "user", "content": "a"}]
    turns += [{"role": "assistant", "content": "<think>\nwhy\n</think>\n\nb"}]
    write_dataset(tmp_path, [{"messages": turns}])
    register(tmp_path, "demo", tmp_path / "demo.json", "rendered")
    store = _open(model, tmp_path)
    text = TokenizerSource(str(model), "main", False).load().decode(store[0].ids)
    assert text.endswith("<|im_start|>assistant\n<think>\nwhy\n</think>\n\nb<|im_end|>")


def _rest(turn: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in turn.items() if key not in ("from", "value")}


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (None, "dataset_info.json: not found; register the dataset first (STEP 1)"),
        ("{", "dataset_info.json: not JSON ("),
        ("[]", "dataset_info.json: not a JSON object (got list)"),
        ({"b": {}, "a": {}}, "dataset_info.json: no dataset 'demo' is registered (known: a, b)"),
        ({"demo": {"file_name": "demo.json"}}, "demo: formatting must be sharegpt"),
        ({"demo": {"formatting": "sharegpt"}}, "demo: needs file_name or hf_hub_url"),
        (
            {"demo": {"file_name": "gone.json", "formatting": "sharegpt"}},
            "gone.json: the data file of dataset 'demo' does not exist",
        ),
        (
            {"demo": {"file_name": "d.json", "formatting": "sharegpt", "num_samples": 9}},
            "demo: num_samples: LLaMA-Factory draws that many rows without a seed; remove it and",
        ),
        (
            {"demo": {"file_name": "d.json", "formatting": "sharegpt", "ranking": True}},
            "demo: holds pairs (ranking: true), for stage dpo or rm, not sft",
        ),
    ],
    ids=[
        *("missing", "broken", "list", "unknown", "alpaca", "no source", "no file"),
        *("number", "ranking"),
    ],
)
def test_a_dataset_that_cannot_be_found_says_why(tmp_path: Path, info: Any, message: str) -> None:
    if info is not None:
        text = info if isinstance(info, str) else json.dumps(info)
        (tmp_path / "dataset_info.json").write_text(text)
    with pytest.raises(DataError) as caught:
        find_datasets(tmp_path, "demo", "sft")
    assert message in str(caught.value)
