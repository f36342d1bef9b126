"""Conversion from the command line alone: any number of sources of any kind into one data set."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.conversion.source import source_at
from pipeline.conversion.stats import Tally
from pipeline.conversion.trial import TrialOptions
from pipeline.conversion.trials import InstanceStatus, Selection, read_repos, select
from pipeline.conversion.writer import DataFiles, write_data
from pipeline.progress import Progress
from pipeline.quality.repos import repo_matcher


def select_from(
    paths: Sequence[Path],
    scaffold: str,
    status: InstanceStatus,
    is_excluded: Callable[[str], bool],
) -> Selection:
    """The trials of several sources, in the order of `paths`; names are made unique.

    Each source is selected from by itself: one without any reward is taken whole.

    Raises: DataError: a source is missing or empty.
    """
    merged = Selection([], [], [])
    taken: set[str] = set()
    for path in paths:
        found = select(source_at(path).inventory(scaffold), status, is_excluded, 0, 0)
        prefix = f"{path.resolve().name}/" if len(paths) > 1 and path.is_dir() else ""
        new_names: dict[str, str] = {}
        for trial in found.trials:
            name = new_names[trial.name] = _unique(prefix + trial.name, taken)
            source_dir = (prefix + trial.source_dir).rstrip("/")
            merged.trials.append(replace(trial, name=name, source_dir=source_dir))
        for reject in found.rejects:
            name = _unique(prefix + reject.trial, taken)
            source_file = prefix + reject.source_file if reject.source_file else ""
            merged.rejects.append(replace(reject, trial=name, source_file=source_file))
        merged.notes += [f"{path}: {note}" for note in found.notes]
    return merged


def _unique(name: str, taken: set[str]) -> str:
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name}~{number}"
    taken.add(unique)
    return unique


def convert_sources(
    paths: Sequence[Path],
    files: DataFiles,
    scaffold: str,
    status: InstanceStatus,
    excluded_repos: Path | None,
    progress: Progress | None = None,
) -> tuple[Tally, list[str]]:
    """Convert on all cores, however many trials turn out unusable.

    Returns: the counts, and what was odd about the sources.
    Raises: DataError: a source is missing or empty; a worker died.
    """
    repos = read_repos(excluded_repos) if excluded_repos else []
    selection = select_from(paths, scaffold, status, repo_matcher(repos))
    options = TrialOptions(scaffold, excluded_repos=tuple(repos))
    tally = write_data(selection, options, 0, files, lambda _: None, progress)
    return tally, selection.notes + tally.secret_notes(options.cleaning.secrets.policy)
