"""Property: a start on unchanged data reads none of it again, and a change never goes unnoticed.

Run: pytest tests/test_trainer_read_files.py
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from trainer_runs import conversations, tokenise, train_args, write_dataset

from pipeline.errors import TrainError
from pipeline.progress import show_progress
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data import read_files, store
from pipeline.trainer.data.build import BuildReport, open_or_build
from pipeline.trainer.data.store import open_store


@pytest.fixture
def args(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainArgs:
    """Of a store that was built and whose files are old enough to be remembered."""
    monkeypatch.setattr(read_files, "_RECENT_SECONDS", -60.0)
    found = train_args(tiny_model, write_dataset(tmp_path, conversations(8)), tmp_path / "run")
    tokenise(found)
    return found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read to their ends."""
    names: list[str] = []

    def watched(function: Any) -> Any:
        def call(file: Path) -> Any:
            names.append(file.name)
            return function(file)

        return call

    monkeypatch.setattr(read_files, "sha256_file", watched(read_files.sha256_file))
    monkeypatch.setattr(store, "is_intact", watched(store.is_intact))
    return names


def _edit(file: Path, old: bytes, new: bytes) -> None:
    """Same size, and the time of the last change set back."""
    assert len(old) == len(new)
    stat = file.stat()
    data = file.read_bytes()
    assert old in data
    file.write_bytes(data.replace(old, new))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _verified(args: TrainArgs) -> BuildReport:
    with show_progress("tokenise", "rows") as progress:
        return open_or_build(args, progress, verify=True)


def test_a_second_start_reads_nothing_again(args: TrainArgs, read: list[str]) -> None:
    assert tokenise(args).rows_tokenised == 0
    open_store(args)
    assert read == []


def test_verify_reads_everything(args: TrainArgs, read: list[str]) -> None:
    [shard] = tokenise(args).store.directory.glob("*.shard")
    assert _verified(args).rows_tokenised == 0
    assert sorted(read) == sorted(["demo.json", shard.name])
    tokenise(args)
    assert len(read) == 2, "what was read is known again"


def test_an_edited_file_of_the_same_size_and_time_is_noticed(args: TrainArgs) -> None:
    before = tokenise(args).store.fingerprint
    _edit(Path(args.dataset_dir) / "demo.json", b"the file", b"teh file")
    after = tokenise(args)
    assert after.store.fingerprint != before
    assert 0 < after.rows_tokenised < 8


def test_a_damaged_shard_of_the_same_size_and_time_is_noticed(
    args: TrainArgs, caplog: pytest.LogCaptureFixture
) -> None:
    [shard] = tokenise(args).store.directory.glob("*.shard")
    intact = shard.read_bytes()
    _edit(shard, intact[-16:], bytes(8) + intact[-8:])
    assert tokenise(args).rows_tokenised == 8
    assert shard.read_bytes() == intact
    assert any(message.endswith("what it held is tokenised again") for message in caplog.messages)


def test_nothing_is_remembered_of_a_file_that_changed_just_now(
    args: TrainArgs, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another change within the same tick of the clock would leave the same times."""
    monkeypatch.setattr(read_files, "_RECENT_SECONDS", 60.0)
    _edit(Path(args.dataset_dir) / "demo.json", b"the file", b"teh file")
    for _ in range(2):
        read.clear()
        tokenise(args)
        assert "demo.json" in read


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}'])
def test_a_memory_that_makes_no_sense_is_no_memory(
    args: TrainArgs, read: list[str], content: str
) -> None:
    memory = Path(args.dataset_dir) / "tokens" / "read_files.json"
    assert len(json.loads(memory.read_bytes())) == 2
    memory.write_text(content)
    assert tokenise(args).rows_tokenised == 0
    assert len(read) == 2


def test_a_shard_that_the_disk_did_not_keep_is_an_error(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = train_args(tiny_model, write_dataset(tmp_path, conversations(2)), tmp_path / "run")
    monkeypatch.setattr(store, "is_intact", lambda file: False)
    with pytest.raises(TrainError, match=r"\.shard: not what was written just now; check the disk"):
        tokenise(args)
