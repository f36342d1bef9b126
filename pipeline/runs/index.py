"""artifacts/index.yaml: one entry per run, from its start to its end.

    runs:
    - {id: run_007, config: ..., run_name: ..., started_at: ..., completed_at: null,
       status: running, exit_code: null, archive: archives/run_007, output_dir: ..., notes: ""}

Every change happens under a guard lock and replaces the file whole. Keys that other writers gave
an entry stay.
"""

import datetime
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import yaml

from pipeline.files import sync_directory, write_text
from pipeline.runs import record
from pipeline.runs.owner import Owner, Standing, utc_now
from pipeline.runs.record import RunStatus
from pipeline.runs.redact import redact_text

logger = logging.getLogger(__name__)

# The guard is held for one small read and write; a longer wait means a hung file system.
GUARD_TIMEOUT_SECONDS = 60

_RUN_ID = re.compile(r"run_(\d+)")


@dataclass(frozen=True)
class RunHandle:
    """One opened run."""

    run_id: str
    directory: Path
    """archives/run_NNN, which exists."""
    artifacts: Path
    entry: Mapping[str, Any]
    """Its entry in index.yaml at the start."""


def open_run(artifacts: Path, *, config: Path, run_name: str, output_dir: Path) -> RunHandle:
    """Allocate the next run id, its archive directory and its index entry, status `running`.

    Runs in the index whose process has vanished are marked `died` first.

    Raises:
        OSError: `artifacts` cannot be written.
        filelock.Timeout: another process has held the index for GUARD_TIMEOUT_SECONDS.
    """
    with guard(artifacts):
        runs = _load(artifacts)
        _mark_died(artifacts, runs)
        run_id = f"run_{1 + max(_known_numbers(artifacts, runs), default=0):03d}"
        directory = artifacts / "archives" / run_id
        directory.mkdir(parents=True)
        sync_directory(directory.parent)
        # First the owner, then the entry: an entry without an owner would look dead.
        record.begin(directory, run_id)
        entry = {
            "id": run_id,
            "config": str(config.absolute()),
            "run_name": run_name,
            "started_at": record.read_metadata(directory)["started_at"],
            "completed_at": None,
            "status": RunStatus.RUNNING.value,
            "exit_code": None,
            "archive": f"archives/{run_id}",
            "output_dir": str(output_dir.absolute()),
            "notes": "",
        }
        _save(artifacts, [*runs, entry])
    return RunHandle(run_id, directory, artifacts, entry)


def close_run(
    handle: RunHandle,
    *,
    status: RunStatus,
    exit_code: int | None,
    notes: str = "",
    started_at: str | None = None,
    completed_at: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write how the run ended, into its metadata.yaml and into the index.

    Args:
        exit_code: None for a run that died.
        started_at, completed_at: UTC, of a run that is recorded only afterwards.
        extra: more keys for metadata.yaml only, such as results.
    """
    times = {"started_at": started_at or handle.entry["started_at"]}
    times["completed_at"] = completed_at or utc_now()
    record.finish(
        handle.directory,
        status,
        exit_code,
        times["completed_at"],
        notes,
        {**(extra or {}), "started_at": times["started_at"]},
    )
    ending = {
        **times,
        "status": status.value,
        "exit_code": exit_code,
        "notes": redact_text(notes),
    }
    with guard(handle.artifacts):
        runs = _load(handle.artifacts)
        # The entry is gone when the index was moved aside meanwhile: then it is added again.
        mine = next((run for run in runs if run.get("id") == handle.run_id), None)
        if mine is None:
            mine = dict(handle.entry)
            runs.append(mine)
        mine.update(ending)
        _save(handle.artifacts, runs)


def read_index(artifacts: Path) -> list[dict[str, Any]]:
    """The entries, oldest first, without changing anything; none when there is no usable index."""
    try:
        return _parse((artifacts / "index.yaml").read_bytes())
    except (OSError, ValueError):
        return []


def running(artifacts: Path) -> list[dict[str, Any]]:
    """The entries whose process lives, or cannot be judged from this host."""
    return [run for run in read_index(artifacts) if _standing(artifacts, run) is not Standing.DEAD]


@contextmanager
def guard(artifacts: Path) -> Iterator[None]:
    """Be the only process that changes the index."""
    locks = artifacts / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(locks / "index.lock", timeout=GUARD_TIMEOUT_SECONDS):
        yield


def _load(artifacts: Path) -> list[dict[str, Any]]:
    path = artifacts / "index.yaml"
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError:
        return []
    except ValueError as error:
        now = datetime.datetime.now(datetime.UTC)
        aside = path.with_name(f"{path.name}.corrupt-{now:%Y%m%dT%H%M%S.%fZ}")
        path.rename(aside)
        logger.warning("%s: %s; moved aside to %s, starting a new one", path, error, aside.name)
        return []


def _parse(data: bytes) -> list[dict[str, Any]]:
    """Raises: ValueError: not a mapping with a list `runs` of mappings."""
    try:
        content = yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise ValueError("not readable as YAML") from error
    runs = content.get("runs") if isinstance(content, dict) else None
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise ValueError("not a mapping with a list `runs` of mappings")
    return [{key: _plain(value) for key, value in run.items()} for run in runs]


def _plain(value: Any) -> Any:
    # Unquoted times, as other writers leave them, are loaded as datetime.
    if isinstance(value, datetime.datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
        return aware.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return value


def _save(artifacts: Path, runs: list[dict[str, Any]]) -> None:
    text = yaml.safe_dump({"runs": runs}, sort_keys=False, allow_unicode=True, width=1000)
    write_text(artifacts / "index.yaml", text)


def _known_numbers(artifacts: Path, runs: list[dict[str, Any]]) -> Iterator[int]:
    names = [str(run.get("id")) for run in runs]
    names += [path.name for path in (artifacts / "archives").glob("run_*")]
    for name in names:
        if match := _RUN_ID.fullmatch(name):
            yield int(match[1])


def _standing(artifacts: Path, run: dict[str, Any]) -> Standing:
    if run.get("status") != RunStatus.RUNNING:
        return Standing.DEAD
    metadata = record.read_metadata(artifacts / "archives" / str(run.get("id")))
    try:
        return Owner.from_json(metadata.get("owner")).standing()
    except ValueError:  # its archive was removed, so nothing can be running from it
        return Standing.DEAD


def _mark_died(artifacts: Path, runs: list[dict[str, Any]]) -> None:
    for run in runs:
        if run.get("status") != RunStatus.RUNNING or _standing(artifacts, run) != Standing.DEAD:
            continue
        run["status"] = RunStatus.DIED.value
        run["notes"] = run.get("notes") or "its process vanished without recording an end"
        directory = artifacts / "archives" / str(run.get("id"))
        if directory.is_dir():
            record.mark_died(directory, run["notes"])
        logger.warning("%s: marked died: %s", run.get("id"), run["notes"])
