"""The bash doors: what they start, from any directory, and what they answer when they cannot.

Each test works on a copy of scripts/ in a directory with a space, with a fake Python whose fake pip
"installs" fake tools that write down their arguments. Run: pytest tests/test_scripts.py
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent

FAKE_TOOL = r"""#!/usr/bin/env bash
{ printf '%s' "$(basename -- "$0")"; printf '|%s' "$@"; printf '\n'; } >>"$CALLS"
if [[ $(basename -- "$0") == sft ]]; then pwd >"$CALLS.cwd"; exit 7; fi
"""
FAKE_PYTHON = r"""#!/usr/bin/env bash
version=${FAKE_VERSION:-3.12.1}
case "$*" in
    *python_version*) echo "$version" ;;
    *version_info*) [[ $version != 3.8* ]] ;;
    *ensurepip*) [[ -z ${NO_VENV:-} ]] ;;
    "-m venv "*)
        echo venv >>"$CALLS"
        mkdir -p "$3/bin"
        cp "$0" "$3/bin/python"
        printf 'home = x\nversion = %s\n' "$version" >"$3/pyvenv.cfg"
        ;;
    "-m pip install "*)
        shift 3; echo "pip $* in $PWD" >>"$CALLS"
        if [[ -n ${PIP_FAILS:-} ]]; then echo "no matching distribution" >&2; exit 1; fi
        if [[ -n ${PIP_SLEEPS:-} ]]; then sleep "$PIP_SLEEPS" & wait; fi
        for tool in sft ruff basedpyright; do cp "$FAKE_TOOL" "$(dirname -- "$0")/$tool"; done
        ;;
    *) exec "$FAKE_TOOL" "$@" ;;
esac
"""
PIP = "pip --quiet --no-input --disable-pip-version-check -e .[dev] in"


@dataclass
class Tree:
    """A copied repository and the environment its scripts run in."""

    root: Path
    env: dict[str, str]
    fakes: Path
    elsewhere: Path
    seen: int = field(default=0)

    def run(self, script: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(self.root / script), *arguments],
            cwd=self.elsewhere,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=30,
        )

    def new_calls(self) -> list[str]:
        """The tools called since the last time this was asked."""
        path = Path(self.env["CALLS"])
        calls = path.read_text().splitlines() if path.exists() else []
        self.seen, fresh = len(calls), calls[self.seen :]
        return fresh

    def fake(self, name: str, source: str) -> Path:
        path = self.fakes / name
        path.write_text(source)
        path.chmod(0o755)
        return path


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    root = tmp_path / "my project"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    shutil.copytree(ROOT / ".ci", root / ".ci")
    shutil.copy(ROOT / "pyproject.toml", root)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "fakes").mkdir()
    tree = Tree(root, {}, tmp_path / "fakes", tmp_path / "elsewhere")
    tree.env = {
        "PATH": f"{tree.fakes}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "PYTHON": str(tree.fake("python", FAKE_PYTHON)),
        "FAKE_TOOL": str(tree.fake("tool", FAKE_TOOL)),
    }
    tree.fake("df", "#!/bin/sh\nprintf 'h\\nd 0 0 99000000 0 /\\n'\n")
    return tree


@pytest.fixture
def installed(tree: Tree) -> Tree:
    assert tree.run("scripts/install.sh").returncode == 0
    assert tree.new_calls() == ["venv", f"{PIP} {tree.root}"]
    return tree


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("start.sh", "run"),
        ("train.sh", "train"),
        ("dataprep.sh", "prep"),
        ("dryrun.sh", "dryrun"),
        ("archive_run.sh", "archive"),
        ("clean.sh", "clean"),
    ],
)
def test_doors_pass_arguments_directory_and_exit_code_through(
    installed: Tree, script: str, command: str
) -> None:
    result = installed.run(f"scripts/{script}", "a b", "x=*", "--flag", "")
    assert (result.returncode, result.stdout, result.stderr) == (7, "", "")
    assert installed.new_calls() == [f"sft|{command}|a b|x=*|--flag|"]
    assert Path(installed.env["CALLS"] + ".cwd").read_text().strip() == str(installed.elsewhere)


def test_start_installs_first_and_says_so_in_a_line_each(tree: Tree) -> None:
    result = tree.run("scripts/start.sh")
    assert result.returncode == 7
    assert tree.new_calls() == ["venv", f"{PIP} {tree.root}", "sft|run"]
    assert result.stderr.splitlines() == [
        f"install: creating .venv with {tree.env['PYTHON']} (3.12.1)",
        "install: installing the packages of pyproject.toml into .venv (minutes the first time)",
        "install: done",
    ]


def test_doors_run_under_any_cdpath_and_through_a_relative_path(installed: Tree) -> None:
    result = subprocess.run(
        ["bash", "scripts/start.sh"],
        cwd=installed.root,
        env=installed.env | {"CDPATH": f"{installed.root}:/"},
    )
    assert result.returncode == 7


def test_clean_installs_nothing(tree: Tree) -> None:
    result = tree.run("scripts/clean.sh", "--artifacts")
    assert result.returncode == 2
    assert result.stderr == (
        f"clean.sh: {tree.root}/.venv is missing or incomplete; run `bash scripts/install.sh` "
        "first\n"
    )
    assert not (tree.root / ".venv").exists()


def test_changed_pyproject_updates_in_place(installed: Tree) -> None:
    (installed.root / "pyproject.toml").write_text("# changed\n")
    assert installed.run("scripts/install.sh").returncode == 0
    assert installed.new_calls() == [f"{PIP} {installed.root}"]
    assert installed.run("scripts/install.sh").stderr == ""
    assert installed.new_calls() == []


def test_moved_repository_is_installed_anew(installed: Tree) -> None:
    moved = installed.root.rename(installed.root.with_name("moved"))
    installed.root = moved
    assert installed.run("scripts/install.sh").returncode == 0
    assert installed.new_calls() == ["venv", f"{PIP} {moved}"]


def test_another_python_is_installed_anew(installed: Tree) -> None:
    assert installed.run("scripts/install.sh", FAKE_VERSION="3.13.0").returncode == 0
    assert installed.new_calls() == ["venv", f"{PIP} {installed.root}"]


def test_failed_installation_shows_pips_words_and_the_next_call_repairs_it(tree: Tree) -> None:
    result = tree.run("scripts/start.sh", PIP_FAILS="1")
    assert result.returncode == 1
    assert "no matching distribution\ninstall: failed: " in result.stderr
    (tree.root / ".venv" / "bin" / "leftover").write_text("")
    tree.new_calls()
    assert tree.run("scripts/install.sh").returncode == 0
    assert tree.new_calls() == ["venv", f"{PIP} {tree.root}"]
    assert not (tree.root / ".venv" / "bin" / "leftover").exists()


def test_python_that_is_too_old_is_refused(tree: Tree) -> None:
    result = tree.run("scripts/start.sh", FAKE_VERSION="3.8.10")
    assert result.returncode == 2
    assert result.stderr == (
        f"install: PYTHON={tree.env['PYTHON']} is Python 3.8.10; set it to Python >= 3.11, or "
        "unset it\n"
    )


def test_everything_that_is_missing_is_said_at_once(tree: Tree) -> None:
    tools = tree.fakes / "only"
    tools.mkdir()
    for name in "bash dirname mkdir flock sed awk cat".split():
        (tools / name).symlink_to(shutil.which(name) or name)
    (tools / "df").write_text("#!/bin/sh\nprintf 'h\\nd 0 0 1000000 0 /\\n'\n")
    (tools / "df").chmod(0o755)
    result = tree.run("scripts/install.sh", PATH=str(tools), PYTHON="nosuch")
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "install: Python >= 3.11 not found (tried nosuch); install one, or set "
        "PYTHON=/path/to/python3.11",
        "install: no C++ compiler found (tried c++ g++ clang++), and DeepSpeed compiles its "
        "optimizers; install one (Debian, Ubuntu: apt-get install g++)",
        f"install: only 1000 MB free on the disk of {tree.root}, 6000 MB needed; free some, or "
        "move the repository to a bigger disk",
    ]


def test_python_without_venv_is_refused(tree: Tree) -> None:
    result = tree.run("scripts/install.sh", NO_VENV="1")
    assert result.returncode == 2
    assert "has no venv module; install it" in result.stderr


def test_newest_python_that_is_recent_enough_is_found(tree: Tree) -> None:
    old = FAKE_PYTHON.replace(":-3.12.1", ":-3.8.1")
    for name, source in [("python3.13", old), ("python3.12", FAKE_PYTHON), ("python3", old)]:
        tree.fake(name, source)
    result = tree.run("scripts/install.sh", PYTHON="")
    assert f"creating .venv with {tree.fakes}/python3.12 (3.12.1)" in result.stderr


def test_concurrent_installations_take_turns(tree: Tree) -> None:
    starts = [
        subprocess.Popen(
            ["bash", str(tree.root / "scripts" / "start.sh")],
            env=tree.env | {"PIP_SLEEPS": "0.5"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=20)[1] for process in starts]
    assert [process.returncode for process in starts] == [7, 7, 7]
    assert sum("waiting for another installation to end" in text for text in said) == 2
    assert sorted(tree.new_calls()) == [f"{PIP} {tree.root}", *["sft|run"] * 3, "venv"]


def test_running_command_does_not_hold_the_installation_lock(tree: Tree) -> None:
    tree.fake("tool", "#!/bin/sh\necho ready\nexec sleep 20\n")
    process = subprocess.Popen(
        ["bash", str(tree.root / "scripts" / "start.sh")],
        env=tree.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        (tree.root / "pyproject.toml").write_text("# changed\n")
        result = tree.run("scripts/install.sh")
        assert "waiting" not in result.stderr
        assert result.returncode == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_during_installation_stops_pip(tree: Tree, number: signal.Signals) -> None:
    process = subprocess.Popen(
        ["bash", str(tree.root / "scripts" / "start.sh")],
        env=tree.env | {"PIP_SLEEPS": "31.4159"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 10
    while not sleepers(tree) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    said = process.communicate(timeout=10)[1]
    assert process.returncode == 130
    assert said.endswith("install: interrupted; the next call starts the installation over\n")
    assert sleepers(tree) == []
    assert not (tree.root / ".venv" / ".sft-installed").exists()


def sleepers(tree: Tree) -> list[int]:
    """What the fake pip of this tree has started and is still running."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            mine = process.environ().get("CALLS") == tree.env["CALLS"]
            if mine and process.name() == "sleep" and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


@pytest.mark.parametrize(
    ("arguments", "selection"),
    [((), "-m|not slow"), (("-k", "a b"), "-m|not slow|-k|a b"), (("--all", "-x"), "-x")],
)
def test_tests_run_all_checks_and_pass_arguments_on(
    installed: Tree, arguments: tuple[str, ...], selection: str
) -> None:
    assert installed.run("scripts/test.sh", *arguments).returncode == 0
    assert installed.new_calls() == [
        "ruff|format|--check",
        "ruff|check",
        "basedpyright|--pythonpath|.venv/bin/python",
        f"tool|-m|pytest|{selection}",
    ]


def test_tests_stop_at_the_first_failure_and_ci_is_the_same(installed: Tree) -> None:
    (installed.root / ".venv/bin/ruff").write_text("#!/bin/sh\nexit 5\n")
    assert installed.run(".ci/run").returncode == 5
    assert installed.new_calls() == []
