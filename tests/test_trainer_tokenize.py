"""Property: what is tokenised is tokenised once, survives a kill, and is what the tokenizer says.

Run: pytest tests/test_trainer_tokenize.py
"""

import functools
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from trainer_runs import conversations, tokenise, train_args, write_dataset

from pipeline.errors import DataError
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data import build, chunks, encode, tokenize
from pipeline.trainer.data.dataset import find_datasets
from pipeline.trainer.data.jinja.compiled import CompiledTemplate
from pipeline.trainer.data.read_files import ReadFiles
from pipeline.trainer.data.row_file import read_raw_rows
from pipeline.trainer.data.store import TokenStore
from pipeline.trainer.data.tokenize import TokenizerSource


@pytest.fixture
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_SMALLEST_BYTES", 2000)
    monkeypatch.setattr(chunks, "_LARGEST_BYTES", 6000)


def _args(model: Path, directory: Path, rows: list[Any], **changes: Any) -> TrainArgs:
    return train_args(model, write_dataset(directory, rows), directory / "run", **changes)


def _contents(store: TokenStore) -> list[Any]:
    return [(store.dataset(i), store.row(i), store[i]) for i in range(len(store))]


def _shards(store: TokenStore) -> dict[str, int]:
    """Shard -> inode."""
    return {file.name: file.stat().st_ino for file in store.directory.glob("*.shard")}


# --- incremental


@pytest.mark.usefixtures("_small_chunks")
def test_only_what_is_new_is_tokenised(tiny_model: Path, tmp_path: Path) -> None:
    rows = conversations(200)
    first = tokenise(_args(tiny_model, tmp_path, rows))
    assert first.rows_tokenised == 200
    rows[100]["conversations"][1]["value"] += "."
    edited = tokenise(_args(tiny_model, tmp_path, rows))
    assert edited.rows_tokenised == 1
    kept = _shards(first.store).items() & _shards(edited.store).items()
    # Where a boundary lies depends on hashes, of the code, too: a few beside the row may move.
    assert len(kept) > len(_shards(edited.store)) / 2, "most others are the same files"
    inserted = tokenise(_args(tiny_model, tmp_path, [*rows[:50], *conversations(2, 1), *rows[50:]]))
    assert inserted.rows_tokenised == 2
    assert len(_shards(edited.store).items() & _shards(inserted.store).items()) > 5
    removed = tokenise(_args(tiny_model, tmp_path, rows[:50] + rows[51:]))
    assert removed.rows_tokenised == 0
    alone = tokenise(_args(tiny_model, tmp_path / "alone", rows[:50] + rows[51:]))
    assert _contents(removed.store) == _contents(alone.store)


def test_equal_rows_are_stored_once(tiny_model: Path, tmp_path: Path) -> None:
    args = _args(tiny_model, tmp_path, conversations(5))
    write_dataset(tmp_path, conversations(5), name="again")
    store = tokenise(args.model_copy(update={"dataset": "demo,again"})).store
    assert len(_shards(store)) == 1
    half = len(store) // 2
    names = [store.dataset(i) for i in range(len(store))]
    assert names == ["demo"] * half + ["again"] * half
    assert [store[i] for i in range(half)] == [store[half + i] for i in range(half)]


@pytest.mark.usefixtures("_small_chunks")
def test_a_store_of_a_chosen_place_is_brought_up_to_date(tiny_model: Path, tmp_path: Path) -> None:
    rows = conversations(100)
    chosen = {"tokenized_path": str(tmp_path / "chosen")}
    before = _shards(tokenise(_args(tiny_model, tmp_path / "data", rows, **chosen)).store)
    report = tokenise(_args(tiny_model, tmp_path / "data", rows[:-1], **chosen))
    assert report.rows_tokenised == 0
    alone = tokenise(_args(tiny_model, tmp_path / "alone", rows[:-1])).store
    assert _contents(report.store) == _contents(alone)
    assert set(_shards(report.store)) == set(_shards(alone)) != set(before)


def test_a_damaged_shard_beside_is_not_used(tiny_model: Path, tmp_path: Path) -> None:
    rows = conversations(5)
    first = tokenise(_args(tiny_model, tmp_path, rows)).store
    [shard] = first.directory.glob("*.shard")
    shard.write_bytes(shard.read_bytes()[:-8] + b"\0\0\0\0\0\0\0\1")
    assert tokenise(_args(tiny_model, tmp_path, rows[:-1])).rows_tokenised == 4


def test_a_row_that_changes_while_it_is_read_is_noticed(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = _args(tiny_model, tmp_path, conversations(5))
    data = tmp_path / "demo.json"
    planned = build.plan_chunks

    def changed(when: str) -> Any:
        def plan(*given: Any) -> Any:
            found = list(planned(*given))
            stat = data.stat()
            data.write_text(data.read_text().replace("the", "teh"))
            if when == "later":  # too quick for a hash of the file to tell
                monkeypatch.setattr(build.StoreSpec, "key", lambda spec: "0" * 16)
            os.utime(data, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            return found

        return plan

    monkeypatch.setattr(build, "plan_chunks", changed("now"))
    with pytest.raises(DataError, match=r"demo\.json: changed while it was being read; start"):
        tokenise(args)
    write_dataset(tmp_path, conversations(5))
    monkeypatch.setattr(build, "plan_chunks", changed("later"))
    monkeypatch.setattr(build.StoreSpec, "key", lambda spec: "0" * 16)
    with pytest.raises(DataError, match=r"demo\.json: changed while it was being tokenised; start"):
        tokenise(args)


# --- killed


def _kill_at_random(args: TrainArgs, seconds: float) -> bool:
    """Build in another process. Returns: it was killed before it ended."""
    process = multiprocessing.get_context("fork").Process(target=tokenise, args=(args,))
    process.start()
    time.sleep(seconds)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_a_killed_build_goes_on_where_it_was(tiny_model: Path, tmp_path: Path, kills: int) -> None:
    rows = conversations(300)
    started = time.monotonic()
    whole = tokenise(_args(tiny_model, tmp_path / "whole", rows))
    seconds = time.monotonic() - started
    draw = random.Random(kills)
    killed = resumed = 0
    while killed < kills:
        directory = tmp_path / "killed"
        shutil.rmtree(directory, ignore_errors=True)
        args = _args(tiny_model, directory, rows)
        killed += _kill_at_random(args, draw.uniform(0, 1.2 * seconds))
        report = tokenise(args)
        resumed += 0 < report.rows_tokenised < 300
        assert report.store.damage(ReadFiles(tmp_path / "none")) is None
        assert report.store.fingerprint == whole.store.fingerprint
        assert not list(report.store.directory.glob(".*"))
        for file in whole.store.directory.iterdir():
            assert (report.store.directory / file.name).read_bytes() == file.read_bytes()
    assert resumed > 0, "no kill left some shards but not all"


# --- ids


_text = st.lists(
    st.sampled_from(["<|im_end|>", "<|im_start|>", "<think>", "</think>", "<tool_call>"])
    | st.sampled_from(["\n", "\n\n", "  ", "a", " the", "{", "\u00e9", "\U0001f600", "<|", "|>"])
    | st.text(max_size=5),
    max_size=8,
).map("".join)


_has_gigatoken = pytest.mark.skipif(find_spec("gigatoken") is None, reason="needs gigatoken")


@pytest.mark.parametrize("name", ["pieces", pytest.param("gigatoken", marks=_has_gigatoken)])
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(text=_text)
def test_a_fast_encoder_gives_the_ids_of_the_text(
    tiny_model: Path, name: encode.EncoderName, text: str
) -> None:
    tokenizer = _tokenizer(tiny_model)
    fast = _encoder(tiny_model, name)
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    for _ in range(2):  # the second time they are remembered
        assert fast(text, add_special_tokens=False)["input_ids"] == expected


@functools.cache
def _encoder(model: Path, name: encode.EncoderName) -> Any:
    return encode.with_encoder(_tokenizer(model), name)


@functools.cache
def _tokenizer(model: Path) -> Any:
    return TokenizerSource(str(model), "main", False).load()


def test_what_is_remembered_is_bounded(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "_REMEMBERED_CHARACTERS", 100)
    fast = encode.with_encoder(_tokenizer(tiny_model), "pieces")
    for number in range(100):
        fast(f"text number {number}", add_special_tokens=False)
    assert sum(map(len, fast._known)) < 150


def test_a_token_that_takes_the_space_beside_it_needs_the_tokenizer_itself(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode.importlib.util, "find_spec", lambda name: None)
    tokenizer = TokenizerSource(str(tiny_model), "main", False).load()
    assert encode.choose_encoder(tokenizer) == "pieces"
    tokenizer.add_tokens([AddedToken("<end>", rstrip=True)])
    assert encode.choose_encoder(tokenizer) == "plain"


def _wrong_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    right = encode._Pieces._encode
    monkeypatch.setattr(tokenize, "choose_encoder", lambda tokenizer: "pieces")
    monkeypatch.setattr(encode._Pieces, "_encode", lambda self, text: [*right(self, text)[:-1], 5])


def _wrong_template(monkeypatch: pytest.MonkeyPatch) -> None:
    right = CompiledTemplate.render
    monkeypatch.setattr(
        CompiledTemplate,
        "render",
        lambda self, **given: right(self, **given).replace("the", "teh"),
    )


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("break_it", [_wrong_encoder, _wrong_template])
def test_a_shortcut_to_other_ids_is_found_out_and_not_used(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    break_it: Callable[[pytest.MonkeyPatch], None],
) -> None:
    rows = conversations(100)
    expected = tokenise(_args(tiny_model, tmp_path / "right", rows))
    assert expected.encoder != "plain"
    break_it(monkeypatch)
    tokenize._renderer.cache_clear()
    report = tokenise(_args(tiny_model, tmp_path / "wrong", rows))
    assert report.encoder == "plain"
    assert _contents(report.store) == _contents(expected.store)
    [warning] = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "demo.json:" in warning
    assert ": the fast path (compiled chat template, encoder " in warning
    assert f" gives other ids than the tokenizer of {tiny_model}" in warning


# --- the file


_rows = st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=8), max_size=2), max_size=5)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=_rows,
    layout=st.sampled_from(["jsonl", "lines", "compact", "indented", "flat", "blank lines"]),
)
def test_rows_are_found_with_their_places(tmp_path: Path, rows: list[Any], layout: str) -> None:
    written = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = {
        "jsonl": "".join(f"{row}\n" for row in written),
        "lines": "[\n" + ",\n".join(written) + "\n]\n",
        "compact": json.dumps(rows),
        "indented": json.dumps(rows, indent=2),
        "flat": json.dumps(rows, indent=0),
        "blank lines": "[\r\n" + " ,\r\n\r\n".join(written) + "\r\n]\r\n",
    }[layout]
    file = tmp_path / ("rows.jsonl" if layout == "jsonl" else "rows.json")
    file.write_bytes(text.encode())
    data = file.read_bytes()
    found = list(read_raw_rows(file))
    assert [json.loads(row.raw) for row in found] == rows
    for row in found:
        assert data[row.start : row.start + len(row.raw)] == row.raw
        assert row.line == data[: row.start].count(b"\n") + 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("demo.jsonl", '{"a": 1}\n\n{"conversations": [\n', "demo.jsonl:3: not JSON ("),
        ("demo.json", '{"a": 1}\n5\n', "demo.json:2: must hold a list of objects, one per"),
        ("demo.json", '[\n{"a": 1},\n', "demo.json: not JSON (the array is not closed); convert"),
        ("demo.json", '[\n{"a": 1},\n{"b"}\n]\n', "demo.json:3: not JSON ("),
        ("demo.json", '[{"a": 1}, 5]', "demo.json:1: must hold a list of objects, one per"),
        ("demo.json", '[{"a": 1}', "demo.json: not JSON ("),
        ("demo.json", "5", "demo.json: must hold a list of objects, one per conversation ("),
        ("demo.json", '[\n{"a": 1},\n5\n]', "demo.json:3: must hold a list of objects, one per"),
    ],
)
def test_a_broken_file_is_named_with_its_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    info = {"demo": {"file_name": name, "formatting": "sharegpt"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    [dataset] = find_datasets(tmp_path, "demo")
    with pytest.raises(DataError) as caught:
        list(dataset.rows())
    assert message in str(caught.value)
    assert str(caught.value).endswith("; convert it again or repair it")
