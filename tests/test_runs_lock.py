"""One run per output directory, whoever else starts, dies or lives elsewhere.

Run: pytest tests/test_runs_lock.py
"""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import RunLockedError
from pipeline.runs import lock
from pipeline.runs.lock import RunLock, live_owner, lock_path
from pipeline.runs.owner import Owner

ROOT = Path(lock.__file__).parents[2]


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    return tmp_path / "model" / "r 1"


def leave_lock(output_dir: Path, **changes: Any) -> Path:
    path = lock_path(output_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(Owner.current("run_007").to_json() | changes))
    return path


def ended_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_lock_names_its_owner_while_held_and_is_gone_afterwards(output_dir: Path) -> None:
    with RunLock(output_dir, "run_001") as held:
        assert held.path == output_dir.with_name("r 1.lock")
        content = json.loads(held.path.read_text())
        assert content["pid"] == os.getpid()
        assert content["run_label"] == "run_001"
        assert content["started_at"].endswith("Z")
        assert live_owner(output_dir) == Owner.from_json(content)
    assert not held.path.exists()
    assert live_owner(output_dir) is None


def test_lock_is_removed_when_the_run_fails(output_dir: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunLock(output_dir, "run_001"):
        _ = 1 / 0
    assert not lock_path(output_dir).exists()


def test_live_owner_refuses_and_is_named_with_the_way_out(output_dir: Path) -> None:
    with RunLock(output_dir, "run_001"), pytest.raises(RunLockedError) as refused:
        RunLock(output_dir, "run_002").__enter__()
    assert str(refused.value).startswith(f"{output_dir}.lock: the output_dir is in use by run_001")
    assert f"(pid {os.getpid()} on " in str(refused.value)
    assert f"`kill -TERM {os.getpid()}`" in str(refused.value)
    assert refused.value.exit_code == 3


def test_the_same_directory_by_another_name_is_refused(output_dir: Path) -> None:
    output_dir.mkdir(parents=True)
    link = output_dir.with_name("link")
    link.symlink_to(output_dir)
    with RunLock(output_dir, "run_001"), pytest.raises(RunLockedError):
        RunLock(link, "run_002").__enter__()


@pytest.mark.parametrize(
    "changes",
    [{"boot_id": "another boot"}, {"process_started": 1.0}, {"pid": None}],
    ids=["rebooted", "pid reused", "no such pid"],
)
def test_dead_owner_is_taken_over_with_a_message(
    output_dir: Path, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    if "pid" in changes:
        changes = {"pid": ended_pid()}
    path = leave_lock(output_dir, **changes)
    assert live_owner(output_dir) is None
    with caplog.at_level(logging.WARNING), RunLock(output_dir, "run_008"):
        assert json.loads(path.read_text())["run_label"] == "run_008"
    assert f"took over {path}: its owner run_007 (pid " in caplog.text


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"pid_namespace": "pid:[1]"}])
def test_owner_that_cannot_be_seen_from_here_refuses(
    output_dir: Path, changes: dict[str, Any]
) -> None:
    path = leave_lock(output_dir, pid=ended_pid(), **changes)
    assert live_owner(output_dir) is not None
    with pytest.raises(RunLockedError, match="remove the file if that machine or container is"):
        RunLock(output_dir, "run_008").__enter__()
    assert path.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', '{"pid": "1"}'])
def test_unreadable_lock_refuses_and_stays(output_dir: Path, content: str) -> None:
    leave_lock(output_dir).write_text(content)
    with pytest.raises(RunLockedError, match=r"not a readable run lock \(.*\); remove it if no"):
        RunLock(output_dir, "run_008").__enter__()
    assert lock_path(output_dir).read_text() == content


def test_lock_that_another_has_taken_over_is_left_alone(output_dir: Path) -> None:
    with RunLock(output_dir, "run_001"):
        path = leave_lock(output_dir, run_label="run_002")
    assert json.loads(path.read_text())["run_label"] == "run_002"


def test_forked_child_does_not_free_its_parents_lock(output_dir: Path) -> None:
    with RunLock(output_dir, "run_001") as held:
        child = os.fork()
        if child == 0:
            held.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(child, 0)
        assert held.path.exists()


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunLockedError, match=r"file/r1.lock: cannot take the run lock \(.*\); cho"):
        RunLock(tmp_path / "file" / "r1", "run_001").__enter__()


def test_of_many_starters_over_a_dead_lock_exactly_one_wins(output_dir: Path) -> None:
    leave_lock(output_dir, pid=ended_pid())
    starter = (
        "import sys, pathlib\n"
        "from pipeline.errors import RunLockedError\n"
        "from pipeline.runs.lock import RunLock\n"
        "sys.stdin.readline()\n"
        "try:\n"
        "    with RunLock(pathlib.Path(sys.argv[1]), 'starter'):\n"
        "        print('won', flush=True)\n"
        "        sys.stdin.readline()\n"
        "except RunLockedError:\n"
        "    print('refused', flush=True)\n"
    )
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", starter, str(output_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for _ in range(6)
    ]
    for process in starters:
        assert process.stdin is not None
        process.stdin.write("go\n")
    answers = [process.stdout.readline().strip() for process in starters if process.stdout]
    for process in starters:
        process.communicate("end\n")
    assert sorted(answers) == ["refused"] * 5 + ["won"]
