"""A Harbor job directory: its trials and their rewards.

    <job>/result.json              {"stats": {"evals": {<key>: {"reward_stats":
                                   {"reward": {"1.0": [trial, ...]}}, "exception_stats": ...}}}}
    <job>/<trial>/config.json      {"task": {"path"}, "agent": {"name", "model_name"}}
    <job>/<trial>/result.json      {"verifier_result": {"rewards": {...}}, "exception_info", ...}
    <job>/<trial>/verifier/        reward.txt | reward.json
    <job>/<trial>/agent/           the raw trajectory

Every file but the trajectory may be missing or broken: a reward is looked for in all of them, and
what could not be read is a note, not an error. A reward and an exception are independent: a trial
that ran into its time limit may have solved the task.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.conversion.raw_files import files_below
from pipeline.conversion.trials import Inventory, Trial
from pipeline.errors import DataError
from pipeline.jsonl import NotJsonError, parse_json
from pipeline.scaffolds import is_raw_name

_RANDOM_SUFFIX = re.compile(r"__[^_]{7}$")
_LABEL_FILES = ("config.json", "result.json", "verifier/reward.txt", "verifier/reward.json")


@dataclass(frozen=True)
class HarborJob:
    """A source: one job directory."""

    path: Path

    def raw_files(self) -> dict[str, Path]:
        """Name relative to the job -> path, of the files in agent/ that a scaffold may read."""
        return {
            f"{directory.name}/agent/{name}": directory / "agent" / name
            for directory in trial_directories(self.path)
            for name in _raw_names(directory)
        }

    def label_files(self) -> dict[str, Path]:
        """Name relative to the job -> path, of all else that decides what is written."""
        paths = [self.path / "result.json"]
        for directory in trial_directories(self.path):
            paths += [directory / name for name in _LABEL_FILES]
        return {path.relative_to(self.path).as_posix(): path for path in paths if path.is_file()}

    def inventory(self, scaffold: str) -> Inventory:
        """Everything about the job except the trajectories; their scaffold does not matter here.

        Raises: DataError: the job directory is missing or holds no trial.
        """
        notes: list[str] = []
        stats = _job_stats(self.path / "result.json", notes)
        directories = trial_directories(self.path)
        trials = [_read_trial(directory, stats, notes) for directory in directories]
        missing = sorted(set(stats) - {trial.name for trial in trials})
        if missing:
            what = f"{len(missing)} trials without directory: {missing[0]} ..."
            notes.append(f"result.json names {what}")
        return Inventory(trials, notes=notes)


def is_job(path: Path) -> bool:
    """Whether some subdirectory is a trial with trajectories."""
    return path.is_dir() and any((child / "agent").is_dir() for child in path.iterdir())


def _raw_names(trial_directory: Path) -> list[str]:
    return [name for name in files_below(trial_directory / "agent") if is_raw_name(name)]


def trial_directories(job_dir: Path) -> list[Path]:
    """Subdirectories that look like trials, sorted by name.

    Raises: DataError: the job directory is missing or holds no trial.
    """
    if not job_dir.is_dir():
        raise DataError(
            f"{job_dir}: no such directory; set runtime_info.input.source.job_dir to a Harbor job"
        )
    found = sorted(
        path
        for path in job_dir.iterdir()
        if path.is_dir() and ((path / "config.json").is_file() or (path / "agent").is_dir())
    )
    if not found:
        raise DataError(
            f"{job_dir}: holds no trial (a subdirectory with config.json or agent/); "
            "set runtime_info.input.source.job_dir to a Harbor job"
        )
    return found


@dataclass(slots=True)
class _Stats:
    """What the job's result.json says about one trial."""

    reward: float | None = None
    exception: str = ""


def _job_stats(path: Path, notes: list[str]) -> dict[str, _Stats]:
    stats: dict[str, _Stats] = {}
    document = _read_object(path, notes)
    for eval_key, entry in _items(_object(document.get("stats")).get("evals")):
        rewards = _object(_object(entry).get("reward_stats"))
        name = _reward_name(rewards)
        if rewards and name is None:
            notes.append(f"result.json: {eval_key}: no reward named reward among {list(rewards)}")
        for bucket, trials in _items(rewards.get(name or "")):
            value = _number(bucket)
            if value is None or not isinstance(trials, list):
                continue
            for trial in trials:
                known = stats.setdefault(str(trial), _Stats())
                if known.reward is not None and known.reward != value:
                    notes.append(f"result.json: {trial} has several rewards; the lowest counts")
                known.reward = value if known.reward is None else min(value, known.reward)
        for exception, trials in _items(_object(entry).get("exception_stats")):
            for trial in trials if isinstance(trials, list) else []:
                stats.setdefault(str(trial), _Stats()).exception = exception
    return stats


def _read_trial(directory: Path, stats: dict[str, _Stats], notes: list[str]) -> Trial:
    config = _read_object(directory / "config.json", notes)
    result = _read_object(directory / "result.json", notes)
    known = stats.get(directory.name, _Stats())
    agent = _object(config.get("agent"))
    info = _object(result.get("agent_info"))
    model = agent.get("model_name") or _object(info.get("model_info")).get("name")
    names = (agent.get("name"), agent.get("import_path"), info.get("name"))
    reward = known.reward if known.reward is not None else _trial_reward(directory, result, notes)
    exception = _object(result.get("exception_info")).get("exception_type")
    return Trial(
        name=directory.name,
        raw_dir=directory / "agent",
        raw_names=tuple(_raw_names(directory)),
        source_dir=f"{directory.name}/agent",
        instance_id=_instance_id(directory, config, result),
        agent_name=" ".join(str(name) for name in names if name),
        model_name=str(model or ""),
        reward=reward,
        exception=known.exception or str(exception or ""),
    )


def _instance_id(directory: Path, config: dict[str, Any], result: dict[str, Any]) -> str:
    """The last part of the task's path. The directory's name is cut at 32 characters, so it is
    the last resort."""
    task_id = result.get("task_id")
    candidates = (
        _object(config.get("task")).get("path"),
        task_id if isinstance(task_id, str) else _object(task_id).get("path"),
        result.get("task_name"),
    )
    for candidate in candidates:
        if isinstance(candidate, str) and candidate.strip("/ "):
            return candidate.rstrip("/ ").rsplit("/", 1)[-1]
    return _RANDOM_SUFFIX.sub("", directory.name)


def _trial_reward(directory: Path, result: dict[str, Any], notes: list[str]) -> float | None:
    verdict = _object(result.get("verifier_result"))
    for rewards in (
        _object(verdict.get("rewards")),
        verdict,  # Harbor before named rewards
        _read_object(directory / "verifier" / "reward.json", notes),
    ):
        name = _reward_name(rewards) if rewards is not verdict else "reward"
        value = _number(rewards.get(name)) if name else None
        if value is not None:
            return value
    text_file = directory / "verifier" / "reward.txt"
    return _number(text_file.read_text(errors="replace")) if text_file.is_file() else None


def _reward_name(rewards: dict[str, Any]) -> str | None:
    """`reward`, else the only one there is."""
    if "reward" in rewards:
        return "reward"
    return next(iter(rewards)) if len(rewards) == 1 else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _read_object(path: Path, notes: list[str]) -> dict[str, Any]:
    """A JSON object, {} if the file is missing; {} and a note if it cannot be read."""
    try:
        value = parse_json(path.read_bytes())[0]
    except FileNotFoundError:
        return {}
    except (OSError, NotJsonError) as error:
        notes.append(f"{path.parent.name}/{path.name}: cannot be read ({error})")
        return {}
    if not isinstance(value, dict):
        notes.append(f"{path.parent.name}/{path.name}: not a JSON object")
        return {}
    return value


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []
