"""What is recorded is what ran, every run has an index entry, and none is ever lost.

Run: pytest tests/test_runs_record.py
"""

import json
import logging
import os
import shlex
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.runs import record
from pipeline.runs.index import RunHandle, close_run, open_run, read_index, running
from pipeline.runs.record import RunStatus, read_metadata

CONFIG = b"# mine\r\ntraining:\r\n  lr: 5e-5   # kept\r\ncredentials:\r\n  hf_token: abc\r\n"
ROOT = Path(record.__file__).parents[2]


def open_in(artifacts: Path) -> RunHandle:
    return open_run(
        artifacts, config=Path("config.yaml"), run_name="demo", output_dir=artifacts / "model" / "d"
    )


def open_id(artifacts: Path) -> str:
    return open_in(artifacts).run_id


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_bytes())


def git(directory: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(directory), *arguments],
        check=True,
        capture_output=True,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "code.py").write_text("a = 1\n")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "start")
    return root


def freeze(directory: Path, project: Path) -> None:
    record.freeze(
        directory,
        run_id=directory.name,
        config_path=project / "config.yaml",
        config_source=CONFIG,
        resolved={"training": {"lr": 5e-5}, "credentials": {"hf_token": "abc"}},
        overrides=["training.lr=5e-5", "credentials.hf_token=abc"],
        command=["sft", "run", "--config", "a b.yaml", "--api-key", "hunter2"],
        project_root=project,
    )


def test_frozen_record_holds_config_command_machine_and_code(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("HF_TOKEN", "abcdef")
    monkeypatch.setenv("MY_DIARY", "private")
    (project / "code.py").write_text("a = 2\npassword = 'hunter2'\n")
    (project / "new.py").write_text("")
    handle = open_in(tmp_path / "artifacts")
    freeze(handle.directory, project)
    record.add(handle.directory, "datasets.json", b'{"sha256": "00"}')

    at = handle.directory
    assert (at / "config.yaml").read_bytes() == CONFIG.replace(b"abc", b"<redacted>")
    assert load(at / "resolved.yaml")["credentials"] == {"hf_token": "<redacted>"}
    command = (at / "command").read_text()
    here = shlex.quote(str(Path.cwd()))
    assert command == f"cd {here} &&\nsft run --config 'a b.yaml' --api-key <redacted>\n"
    environment = json.loads((at / "environment.json").read_text())
    assert environment["variables"]["NCCL_DEBUG"] == "INFO"
    assert environment["variables"]["HF_TOKEN"] == "<redacted>"
    assert "MY_DIARY" not in environment["variables"]
    assert environment["packages"]["pytest"] == pytest.__version__
    assert environment["machine"]["cpu_count"] >= 1
    state = json.loads((at / "git.json").read_text())
    assert state["branch"] == "main"
    assert state["is_dirty"]
    assert state["changed"] == [" M code.py", "?? new.py"]
    assert "+a = 2\n+password = '<redacted>'\n" in (at / "git.diff").read_text()
    metadata = load(at / "metadata.yaml")
    assert (metadata["id"], metadata["status"]) == ("run_001", "running")
    assert metadata["owner"]["pid"] == os.getpid()
    assert metadata["git_commit"] == state["commit"]
    assert metadata["overrides"][1] == "credentials.hf_token=<redacted>"
    assert json.loads((at / "datasets.json").read_text()) == {"sha256": "00"}
    assert not [path for path in at.iterdir() if path.name.endswith(".tmp")]
    for path in at.iterdir():
        assert b"hunter2" not in path.read_bytes(), path


def test_project_outside_git_has_no_git_files(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    directory = tmp_path / "record"
    freeze(directory, tmp_path / "plain")
    assert load(directory / "metadata.yaml")["git_commit"] is None
    assert not (directory / "git.json").exists()


def test_index_entry_runs_from_running_to_its_final_status(tmp_path: Path) -> None:
    handle = open_in(tmp_path)
    [entry] = read_index(tmp_path)
    assert entry == handle.entry
    assert (entry["id"], entry["status"], entry["completed_at"]) == ("run_001", "running", None)
    assert entry["archive"] == "archives/run_001"
    close_run(
        handle,
        status=RunStatus.INTERRUPTED,
        exit_code=75,
        notes="SIGTERM token=abc",
        extra={"global_step": 4},
    )
    [entry] = read_index(tmp_path)
    metadata = read_metadata(handle.directory)
    for found in (entry, metadata):
        assert found["status"] == "interrupted"
        assert found["exit_code"] == 75
        assert found["notes"] == "SIGTERM token=<redacted>"
        assert found["started_at"] <= found["completed_at"]
        assert found["completed_at"].endswith("Z")
    assert metadata["global_step"] == 4
    assert running(tmp_path) == []


def test_ids_go_on_after_both_archives_and_index(tmp_path: Path) -> None:
    (tmp_path / "archives" / "run_041").mkdir(parents=True)
    (tmp_path / "archives" / "run_old").mkdir()
    assert open_id(tmp_path) == "run_042"
    (tmp_path / "index.yaml").write_text("runs:\n- {id: run_1200, status: completed}\n")
    assert open_id(tmp_path) == "run_1201"


def test_parallel_openers_get_distinct_ids_and_no_entry_is_lost(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        ids = list(pool.map(open_id, [tmp_path] * 12))
    assert len(set(ids)) == 12
    assert sorted(run["id"] for run in read_index(tmp_path)) == sorted(ids)


def test_run_whose_process_vanished_is_marked_died_by_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opener = (
        "import sys, pathlib\n"
        "from pipeline.runs.index import open_run\n"
        "p = pathlib.Path(sys.argv[1])\n"
        "open_run(p, config=p, run_name='r', output_dir=p)\n"
    )
    subprocess.run(
        [sys.executable, "-c", opener, str(tmp_path)],
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    living = open_in(tmp_path)
    with caplog.at_level(logging.WARNING):
        open_in(tmp_path)
    assert [run["status"] for run in read_index(tmp_path)] == ["died", "running", "running"]
    metadata = read_metadata(tmp_path / "archives" / "run_001")
    assert (metadata["status"], metadata["exit_code"]) == ("died", None)
    assert "vanished without recording an end" in metadata["notes"]
    assert [run["id"] for run in running(tmp_path)] == [living.run_id, "run_003"]


def test_run_on_another_host_is_not_called_dead(tmp_path: Path) -> None:
    handle = open_in(tmp_path)
    metadata = read_metadata(handle.directory)
    metadata["owner"] |= {"host": "elsewhere", "pid": 1}
    (handle.directory / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    open_in(tmp_path)
    assert [run["status"] for run in read_index(tmp_path)] == ["running", "running"]


@pytest.mark.parametrize("content", ["runs: [", "runs: 3", "- a", "runs: [a]", "\x00"])
def test_corrupt_index_is_moved_aside_and_the_run_goes_on(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "index.yaml").write_text(content)
    with caplog.at_level(logging.WARNING):
        open_in(tmp_path)
    [aside] = tmp_path.glob("index.yaml.corrupt-*Z")
    assert aside.read_text() == content
    assert f"moved aside to {aside.name}" in caplog.text
    assert [run["id"] for run in read_index(tmp_path)] == ["run_001"]


def test_closing_a_run_after_its_index_was_lost_adds_its_entry_again(tmp_path: Path) -> None:
    handle = open_in(tmp_path)
    (tmp_path / "index.yaml").unlink()
    close_run(handle, status=RunStatus.COMPLETED, exit_code=0)
    [entry] = read_index(tmp_path)
    assert (entry["id"], entry["status"], entry["run_name"]) == ("run_001", "completed", "demo")


def test_entries_of_other_writers_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "index.yaml").write_text(
        "runs:\n- {id: run_001, started_at: 2026-01-02T03:04:05Z, status: completed, mine: [1]}\n"
    )
    open_in(tmp_path)
    assert read_index(tmp_path)[0] == {
        "id": "run_001",
        "started_at": "2026-01-02T03:04:05Z",
        "status": "completed",
        "mine": [1],
    }
