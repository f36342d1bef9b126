"""The state of the project's own code: commit, what differs from it, and the difference."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

GIT_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class GitState:
    """What git says about a working tree."""

    commit: str
    branch: str
    """Empty when HEAD is detached."""
    changed: list[str]
    """Changed and untracked files as `git status --porcelain` lists them."""
    diff: bytes
    """Against the commit, staged and unstaged; file contents may have any encoding."""

    @property
    def is_dirty(self) -> bool:
        return bool(self.changed)


def git_state(directory: Path) -> GitState | None:
    """The state of the working tree around `directory`.

    Returns: None outside a working tree, before its first commit, without git, or when git refuses
        to read it (another owner); a record must not fail for that.
    """
    try:
        return GitState(
            commit=_git(directory, "rev-parse", "--verify", "HEAD").decode().strip(),
            branch=_git(directory, "branch", "--show-current").decode().strip(),
            changed=_git(directory, "status", "--porcelain").decode(errors="replace").splitlines(),
            diff=_git(directory, "diff", "--no-ext-diff", "--no-color", "--binary", "HEAD"),
        )
    except (OSError, subprocess.SubprocessError):
        return None


def _git(directory: Path, *arguments: str) -> bytes:
    # Without optional locks, so that a commit made at the same moment does not fail.
    return subprocess.run(
        ["git", "-C", str(directory), *arguments],
        env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=GIT_TIMEOUT_SECONDS,
    ).stdout
