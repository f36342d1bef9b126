"""Remove what was generated, but nothing that a live run uses and nothing else.

`plan_clean` looks and changes nothing; `apply` removes what the plan lists. Symbolic links are
removed, never followed. Under artifacts/ only what this system writes there is touched.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import yaml

from pipeline.errors import PipelineError
from pipeline.runs import index
from pipeline.runs.lock import live_owner

# Directories and files that the steps, the trainer and the trackers write under artifacts/.
GENERATED = (
    "archives",
    "cache",
    "data",
    "locks",
    "logs",
    "model",
    "tensorboard",
    "training_config",
    "wandb",
)
GENERATED_FILES = ("index.yaml", "index.yaml.corrupt-*")


class CleanError(PipelineError):
    """Refused, because something else than generated files would be removed, or removal failed."""


@dataclass(frozen=True)
class CleanPlan:
    """What `apply` will remove."""

    artifacts: Path
    paths: tuple[Path, ...]
    sizes: dict[Path, int]
    """Bytes of each path on disk, links not followed."""
    kept_because: dict[Path, str]
    """What was asked for but stays, and why."""
    live_runs: frozenset[str]

    @property
    def total_bytes(self) -> int:
        return sum(self.sizes.values())


def plan_clean(
    root: Path, artifacts: Path, *, pycache: bool, artifacts_too: bool, repo_cache: bool
) -> CleanPlan:
    """Find what can be removed.

    Args:
        root: the project; its virtual environment and git data are not looked at.
        pycache: the __pycache__ directories of the project.
        artifacts_too: everything generated under `artifacts`.
        repo_cache: only `artifacts`/cache.
    Raises: CleanError: `artifacts` is a directory that cannot be one of generated files.
    """
    # The directory itself may be a link to a bigger disk.
    artifacts = artifacts.resolve()
    _refuse_foreign(root.resolve(), artifacts)
    live = _live_runs(artifacts)
    paths: list[Path] = []
    kept: dict[Path, str] = {}
    if pycache:
        paths += _pycache(root, artifacts)
    if artifacts_too and artifacts.is_dir():
        _plan_artifacts(artifacts, root, live, paths, kept)
    elif repo_cache and os.path.lexists(artifacts / "cache"):
        if live:
            kept[artifacts / "cache"] = _used_by(live)
        else:
            paths.append(artifacts / "cache")
    sizes = {path: _size_bytes(path) for path in paths}
    return CleanPlan(artifacts, tuple(paths), sizes, kept, frozenset(live))


def apply(plan: CleanPlan) -> int:
    """Remove what the plan lists. Returns: bytes freed.

    Raises: CleanError: a run has started since the plan was made, or a path cannot be removed;
        what was removed before it stays removed.
    """
    if not plan.artifacts.is_dir():
        return _remove_all(plan)
    # A run cannot open its record while the index is guarded.
    with index.guard(plan.artifacts):
        if new := _live_runs(plan.artifacts).keys() - plan.live_runs:
            raise CleanError(
                f"{plan.artifacts}: a run has started meanwhile ({', '.join(sorted(new))}); "
                "run clean again to see what can still go"
            )
        return _remove_all(plan)


def _refuse_foreign(root: Path, artifacts: Path) -> None:
    home = Path.home().resolve()
    for place, name in ((root, "the project"), (home, "the home directory")):
        if place.is_relative_to(artifacts):
            raise CleanError(
                f"{artifacts}: holds {name}, so it is not cleaned; set infrastructure.artifacts_dir"
                " to a directory of its own"
            )


def _live_runs(artifacts: Path) -> dict[str, dict[str, Any]]:
    """Index entries of the runs that may be alive, by label; nearly empty ones for bare locks."""
    live = {str(run.get("id")): run for run in index.running(artifacts)}
    known = {run.get("output_dir") for run in live.values()}
    for lock in (artifacts / "model").rglob("*.lock"):
        output_dir = lock.with_suffix("")
        if str(output_dir) not in known and (owner := live_owner(output_dir)):
            live[f"{owner.run_label} ({output_dir.name})"] = {"output_dir": str(output_dir)}
    for lock in (artifacts / "locks").glob("data-*.lock"):
        if _is_held(lock):
            live[f"the preparation of {lock.stem.removeprefix('data-')}"] = {}
    return live


def _is_held(lock: Path) -> bool:
    try:
        with filelock.FileLock(lock, timeout=0):
            return False
    except filelock.Timeout:
        return True


def _used_by(live: dict[str, dict[str, Any]]) -> str:
    return f"in use by {', '.join(sorted(live))}"


def _plan_artifacts(
    artifacts: Path,
    root: Path,
    live: dict[str, dict[str, Any]],
    paths: list[Path],
    kept: dict[Path, str],
) -> None:
    generated = {artifacts / name for name in GENERATED}
    generated |= {path for pattern in GENERATED_FILES for path in artifacts.glob(pattern)}
    in_use = {path for run in live.values() for path in _files_of(artifacts, root, run)}
    for path in sorted(artifacts.iterdir()):
        if path not in generated:
            if path.name != "locks":  # empty files, and removing one would split who waits for it
                kept[path] = "not written by this system"
        elif not live:
            paths.append(path)
        elif path.name in ("model", "training_config") and not path.is_symlink():
            _plan_around(path, in_use, _used_by(live), paths, kept)
        else:
            # Data, cache, logs and records are shared; which of them a run reads is its own affair.
            kept[path] = _used_by(live)


def _files_of(artifacts: Path, root: Path, run: dict[str, Any]) -> Iterator[Path]:
    """What one live run reads and writes among the models and training configs."""
    if "output_dir" in run:
        output_dir = Path(run["output_dir"]).resolve()
        yield output_dir
        yield output_dir.with_name(output_dir.name + ".lock")
        yield output_dir.with_name(f".{output_dir.name}.lock.guard")
    if "run_name" in run:
        yield artifacts / "training_config" / f"{run['run_name']}.yaml"
    # It may start from, or resume from, the result of another run.
    try:
        resolved = yaml.safe_load((artifacts / str(run["archive"]) / "resolved.yaml").read_bytes())
    except (OSError, KeyError, yaml.YAMLError):
        return
    for text in _strings(resolved):
        if "\0" not in text and (path := (root / text).resolve()).is_relative_to(artifacts):
            yield path


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _plan_around(
    directory: Path, in_use: set[Path], why: str, paths: list[Path], kept: dict[Path, str]
) -> None:
    for path in sorted(directory.iterdir()):
        if any(path.is_relative_to(used) for used in in_use):
            kept[path] = why
        elif any(used.is_relative_to(path.resolve()) for used in in_use) and path.is_dir():
            _plan_around(path, in_use, why, paths, kept)
        else:
            paths.append(path)


def _pycache(root: Path, artifacts: Path) -> Iterator[Path]:
    for directory, names, _ in os.walk(root):
        here = Path(directory)
        if "__pycache__" in names and not (here / "__pycache__").is_symlink():
            yield here / "__pycache__"
        names[:] = sorted(
            name
            for name in names
            if not name.startswith(".")
            and name != "__pycache__"
            and (here / name).resolve() != artifacts
            and not (here / name / "pyvenv.cfg").exists()
        )


def _size_bytes(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                total += (Path(directory) / name).lstat().st_size
            except FileNotFoundError:  # a temporary file of another process
                continue
    return total


def _remove_all(plan: CleanPlan) -> int:
    freed = 0
    for path in plan.paths:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CleanError(
                f"{error.filename or path}: cannot be removed ({error.strerror}); check its owner "
                "and permissions"
            ) from error
        freed += plan.sizes[path]
    return freed
