"""STEP 0: raw trajectories -> IM JSONL and LLaMA-Factory JSON.

Writes <data>.jsonl (IM) and <data>.json (examples, same order), and beside the latter

    <data>.rejected.jsonl   every trial and conversation that is not in the data, with its reason
    <data>.stats.json       counts
    <data>.manifest.json    what the data was made of

Laws: trials read = kept + rejected; the files appear together, the manifest last; the same input,
options and code write the same bytes; an unchanged run is skipped.
"""

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.conversion.lf_file import LfSummary, sample_rows, validate_lf
from pipeline.conversion.manifest import FileState, Manifest, code_version
from pipeline.conversion.source import Source
from pipeline.conversion.stats import Tally, summary_line
from pipeline.conversion.trial import CLEAN, WRITE_ALL, Scoring, TrialOptions, convert_trial
from pipeline.conversion.trials import InstanceStatus, Selection, read_repos, select
from pipeline.conversion.writer import DataFiles, write_data
from pipeline.errors import DataError
from pipeline.files import sha256_file, write_json
from pipeline.jsonl import parse_json
from pipeline.progress import Progress
from pipeline.quality.cleaning import Cleaning
from pipeline.quality.repos import repo_matcher
from pipeline.rejects import Reject
from pipeline.sharegpt import LfFormat
from pipeline.step_report import StepReport

__all__ = [
    "ConvertOptions",
    "LfSummary",
    "Peek",
    "convert",
    "peek",
    "sample_rows",
    "stale_reason",
    "validate_lf",
]

_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class ConvertOptions:
    """`source` and `conversion` of config.yaml, as far as they concern this step."""

    scaffold: str
    """A key of `scaffolds.SCAFFOLDS`, or "auto": found out for each trial."""
    instance_status: InstanceStatus
    max_instances: int
    """Cap on trials, drawn with `seed`. 0: all."""
    seed: int
    exclude_repos_file: Path | None
    max_reject_fraction: float
    """Largest acceptable share of the selected trials that turn out unusable."""
    num_workers: int
    """0: one per core. Does not change what is written."""
    lf_format: LfFormat = "structured"
    scoring: Scoring = WRITE_ALL
    cleaning: Cleaning = CLEAN


@dataclass(frozen=True)
class Peek:
    """What `peek` saw."""

    num_trials: int
    num_selected: int
    num_converted: int
    """Trials that were looked into; at most the limit."""
    scaffolds: Counter[str]
    """Of the trials looked into."""
    rows: list[dict[str, Any]]
    """LLaMA-Factory examples."""
    rejects: list[Reject]
    """Of the trials looked into."""
    notes: list[str]


def convert(
    source: Source,
    im_file: Path,
    lf_file: Path,
    options: ConvertOptions,
    progress: Progress | None = None,
) -> StepReport:
    """Convert a source, or skip it if the outputs are what it would write.

    Memory is bounded by the largest trial, times a few per worker.

    Raises: DataError: no trials, nothing kept, or more than `max_reject_fraction` unusable (then
        `<data>.rejected.jsonl` is written, and nothing else); a worker died.
    """
    outputs = _outputs(im_file, lf_file)
    manifest_file = _sidecar(lf_file, "manifest.json")
    reason = stale_reason(source, im_file, lf_file, options)
    earlier = Manifest.read(manifest_file)
    if reason is None and earlier is not None:
        why = "input, options and code are unchanged"
        summary = summary_line(earlier.counts, "")
        return StepReport(0, summary, True, why, earlier.counts, outputs)
    manifest_file.unlink(missing_ok=True)
    # Taken before anything is read: a file that changes meanwhile will not look current.
    states = _input_states(source)
    selection = _select(source, options)
    tally = write_data(
        selection,
        _trial_options(options),
        options.num_workers,
        DataFiles(outputs["im"], outputs["lf"], outputs["rejected.jsonl"]),
        lambda counts: _check_yield(counts, len(selection.trials), outputs, options),
        progress,
    )
    for name, sha256 in tally.hashes.items():
        if state := states.get(name):
            states[name] = replace(state, sha256=sha256)
    write_json(outputs["stats.json"], tally.record())
    states_out = {
        name: FileState.of(path, sha256_file(path)) for name, path in sorted(outputs.items())
    }
    Manifest(_fingerprint(options), _code(), states, states_out, tally.counts()).write(
        manifest_file
    )
    return StepReport(
        step=0,
        summary=tally.line(),
        reason=reason or "",
        counts=tally.counts(),
        outputs=outputs,
        notes=(*selection.notes, *tally.secret_notes(options.cleaning.secrets.policy)),
    )


def stale_reason(
    source: Source, im_file: Path, lf_file: Path, options: ConvertOptions
) -> str | None:
    """Why `convert` would have to run; None: it would skip. Changes nothing.

    Raises: DataError: the source is missing or holds no trial.
    """
    inputs = source.raw_files() | source.label_files()
    manifest = Manifest.read(_sidecar(lf_file, "manifest.json"))
    if manifest is None:
        return "there is no finished conversion"
    outputs = _outputs(im_file, lf_file)
    return manifest.difference(_fingerprint(options), _code(), inputs, outputs)


def peek(source: Source, options: ConvertOptions, limit: int) -> Peek:
    """Convert the first `limit` selected trials in memory. Writes nothing.

    Raises: DataError: the source is missing or holds no trial.
    """
    selection = _select(source, options)
    each = _trial_options(options)
    converted = [convert_trial(trial, each) for trial in selection.trials[:limit]]
    return Peek(
        num_trials=len(selection.trials) + len(selection.rejects),
        num_selected=len(selection.trials),
        num_converted=len(converted),
        scaffolds=Counter(item.scaffold for item in converted if item.scaffold),
        rows=[parse_json(row)[0] for item in converted for row in item.lf_rows],
        rejects=[reject for item in converted for reject in item.rejects],
        notes=selection.notes,
    )


def _outputs(im_file: Path, lf_file: Path) -> dict[str, Path]:
    sidecars = {name: _sidecar(lf_file, name) for name in ("rejected.jsonl", "stats.json")}
    return {"im": im_file, "lf": lf_file} | sidecars


def _sidecar(lf_file: Path, suffix: str) -> Path:
    return lf_file.with_name(f"{lf_file.name.removesuffix('.json')}.{suffix}")


def _trial_options(options: ConvertOptions) -> TrialOptions:
    repos = read_repos(options.exclude_repos_file) if options.exclude_repos_file else []
    return TrialOptions(options.scaffold, options.scoring, options.cleaning, tuple(repos))


def _select(source: Source, options: ConvertOptions) -> Selection:
    repos = []
    if options.exclude_repos_file:
        repos = read_repos(options.exclude_repos_file)
    return select(
        source.inventory(options.scaffold),
        options.instance_status,
        repo_matcher(repos),
        options.max_instances,
        options.seed,
    )


def _input_states(source: Source) -> dict[str, FileState]:
    # Trajectories are hashed by the worker that reads them, and only those that are read.
    raw = {name: FileState.of(path, None) for name, path in source.raw_files().items()}
    labels = source.label_files().items()
    return raw | {name: FileState.of(path, sha256_file(path)) for name, path in labels}


def _fingerprint(options: ConvertOptions) -> dict[str, Any]:
    """The options that decide what is written."""
    repos = options.exclude_repos_file
    return {
        "scaffold": options.scaffold,
        "instance_status": options.instance_status,
        "max_instances": options.max_instances,
        "seed": options.seed,
        "exclude_repos": sorted(read_repos(repos)) if repos else [],
        "max_reject_fraction": options.max_reject_fraction,
        "lf_format": options.lf_format,
        "scoring": asdict(options.scoring),
        "secrets": options.cleaning.secrets.fingerprint(),
        "identity": asdict(options.cleaning.identity),
    }


@functools.cache
def _code() -> str:
    """The version of everything that decides what is written."""
    files = [_PACKAGE / f"{name}.py" for name in ("jsonl", "rejects", "sharegpt", "trajectory")]
    rooms = ("conversion", "scaffolds", "quality")
    files += [path for room in rooms for path in (_PACKAGE / room).rglob("*.py")]
    return code_version([*files, Path(__file__)])


def _check_yield(
    tally: Tally, num_selected: int, outputs: Mapping[str, Path], options: ConvertOptions
) -> None:
    limit = options.max_reject_fraction
    if tally.num_kept and tally.num_defective <= limit * num_selected:
        return
    what = f"{tally.num_defective:,} of {num_selected:,} selected trials cannot be used"
    if tally.num_kept == 0:
        what = f"none of {tally.num_read:,} trials was kept"
    raise DataError(
        f"{outputs['rejected.jsonl']}: {what} ({tally.top_reasons()}); this file "
        "says why for each; a wider instance_status or a higher "
        f"runtime_info.input.conversion.max_reject_fraction (now {limit:g}) lets more pass"
    )
