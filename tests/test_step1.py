"""dataset_info.json gains one entry and loses none.

Run: pytest tests/test_step1.py
"""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.errors import RegistrationError
from pipeline.step1_register import register


def test_entry_describes_the_structured_format(tmp_path):
    report = register(tmp_path, "demo", tmp_path / "demo.json", "structured")
    assert report.line() == f"step 1: dataset demo registered -> {tmp_path}/dataset_info.json"
    assert json.loads((tmp_path / "dataset_info.json").read_text())["demo"] == {
        "file_name": "demo.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "tools": "tools"},
        "tags": {
            "role_tag": "from",
            "content_tag": "value",
            "user_tag": "human",
            "assistant_tag": "gpt",
            "observation_tag": "observation",
            "function_tag": "function_call",
            "system_tag": "system",
        },
    }


def test_plain_messages_have_other_columns_and_an_outside_file_is_absolute(tmp_path):
    elsewhere = tmp_path / "other" / "rows.json"
    register(tmp_path / "lf", "demo", elsewhere, "rendered")
    entry = json.loads((tmp_path / "lf" / "dataset_info.json").read_text())["demo"]
    assert entry["file_name"] == str(elsewhere)
    assert entry["columns"] == {"messages": "messages"}
    assert (entry["tags"]["role_tag"], len(entry["tags"])) == ("role", 7)


def test_texts_are_registered_as_llamafactory_reads_them_for_pretraining(tmp_path):
    register(tmp_path, "books", tmp_path / "books.txt", "text")
    assert json.loads((tmp_path / "dataset_info.json").read_text())["books"] == {
        "file_name": "books.txt",
        "formatting": "alpaca",
        "columns": {"prompt": "text"},
    }


def test_pairs_are_registered_as_llamafactory_reads_them(tmp_path):
    register(tmp_path, "pairs", tmp_path / "pairs.json", "pairs")
    entry = json.loads((tmp_path / "dataset_info.json").read_text())["pairs"]
    assert (entry["formatting"], entry["ranking"]) == ("sharegpt", True)
    assert entry["columns"] == {
        "messages": "conversations",
        "tools": "tools",
        "chosen": "chosen",
        "rejected": "rejected",
    }


def test_other_entries_keep_order_and_content(tmp_path):
    info_file = tmp_path / "dataset_info.json"
    others = {"z": {"file_name": "\u4e2d.json", "num_samples": 3}, "a": {"hf_hub_url": "x/y"}}
    info_file.write_text(json.dumps(others))
    register(tmp_path, "m", tmp_path / "m.json", "structured")
    info = json.loads(info_file.read_text())
    assert list(info) == ["z", "a", "m"]
    assert {name: info[name] for name in others} == others
    register(tmp_path, "z", tmp_path / "z.json", "structured")
    assert list(json.loads(info_file.read_text())) == ["z", "a", "m"]


def test_unchanged_entry_is_not_written_again(tmp_path):
    register(tmp_path, "demo", tmp_path / "demo.json", "structured")
    before = (tmp_path / "dataset_info.json").stat()
    report = register(tmp_path, "demo", tmp_path / "demo.json", "structured")
    after = (tmp_path / "dataset_info.json").stat()
    assert report.skipped
    assert "(skipped: the entry is unchanged)" in report.line()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_concurrent_registrations_all_survive(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(register, tmp_path, f"d{i}", tmp_path / f"d{i}.json", "structured")
            for i in range(24)
        ]
        for job in jobs:
            job.result()
    assert len(json.loads((tmp_path / "dataset_info.json").read_text())) == 24


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{\n  "a" {}\n}', r"dataset_info.json:2:7: not JSON"),
        (b"", r"dataset_info.json:1:1: not JSON"),
        (b"[]", r"dataset_info.json: not a JSON object \(got list\)"),
        (b'{"\xff": 1}', r"dataset_info.json: not UTF-8"),
    ],
)
def test_corrupt_file_is_named_and_left_alone(content, message, tmp_path):
    info_file = tmp_path / "dataset_info.json"
    info_file.write_bytes(content)
    with pytest.raises(RegistrationError, match=message) as error:
        register(tmp_path, "demo", tmp_path / "demo.json", "structured")
    assert "repair it, or move it away" in str(error.value)
    assert info_file.read_bytes() == content
