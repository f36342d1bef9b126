"""STEP 0: raw trajectories -> IM JSONL and LLaMA-Factory JSON.

Writes <data>.jsonl (IM) and <data>.json (examples, same order; or pairs of them, where those are
asked for), and beside the latter

    <data>.rejected.jsonl   every trial and conversation that is not in the data, with its reason
    <data>.stats.json       counts
    <data>.manifest.json    what the data was made of

Laws: trials read = kept + rejected; the files appear together, the manifest last; the same input,
options and code write the same bytes; an unchanged run is skipped.
"""

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pipeline.conversion.filters import Filters, unlabelled_notes
from pipeline.conversion.lf_file import LfSummary, sample_rows, validate_lf
from pipeline.conversion.manifest import FileState, Manifest, code_version
from pipeline.conversion.pairing import PairRules, pair_up
from pipeline.conversion.parts import PartStore
from pipeline.conversion.selection import SelectionRules, select
from pipeline.conversion.source import Source
from pipeline.conversion.stats import Tally, summary_line
from pipeline.conversion.trial import ConvertedRow, TrialOptions, convert_trial
from pipeline.conversion.writer import DataFiles, convert_trials, write_data
from pipeline.errors import DataError
from pipeline.export.deviations import Deviation, lines_of
from pipeline.files import remove_temporaries, sha256_file, write_json
from pipeline.jsonl import parse_json
from pipeline.preference_pairs import make_pair
from pipeline.progress import Progress
from pipeline.rejects import Reject
from pipeline.step_report import StepReport

__all__ = [
    "ConvertOptions",
    "LfSummary",
    "Peek",
    "convert",
    "convert_sources",
    "peek",
    "sample_rows",
    "stale_reason",
    "validate_lf",
]

_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class ConvertOptions:
    """`source` and `conversion` of config.yaml, as far as they concern this step."""

    selection: SelectionRules = SelectionRules()
    """Which trials are read."""
    trial: TrialOptions = TrialOptions()
    """How each is converted."""
    filters: Filters = Filters()
    """Which of the conversations stay."""
    pairs: PairRules | None = None
    """Which pairs of them are the examples. None: each is one."""
    max_reject_fraction: float = 0.5
    """Largest acceptable share of the selected trials that turn out unusable."""
    num_workers: int = 0
    """0: one per core. Does not change what is written."""


@dataclass(frozen=True)
class Peek:
    """What `peek` saw."""

    num_trials: int
    num_selected: int
    num_converted: int
    """Trials that were looked into; at most the limit."""
    num_conversations: int
    """That these gave."""
    scaffolds: Counter[str]
    """Of the trials looked into."""
    rows: list[dict[str, Any]]
    """LLaMA-Factory examples: of each conversation, or of their pairs."""
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
    store = _parts_beside(im_file)
    with store.locked(progress):
        for path in (*outputs.values(), manifest_file):
            remove_temporaries(path)
        manifest_file.unlink(missing_ok=True)
        # Taken before anything is read: a file that changes meanwhile will not look current.
        states = _input_states(source)
        files = DataFiles(outputs["im"], outputs["lf"], outputs["rejected.jsonl"])
        check = functools.partial(_check_yield, files.rejected, options.max_reject_fraction)
        tally, notes = _convert(source, files, options, store, check, progress)
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
        notes=tuple(notes),
    )


def convert_sources(
    source: Source,
    files: DataFiles,
    options: ConvertOptions,
    progress: Progress | None = None,
    *,
    keep_parts: bool = False,
) -> tuple[Tally, list[str]]:
    """Convert without stats and manifest, and whatever share of the trials is kept.

    What a killed call converted is not converted again. `keep_parts`: neither is what a finished
    one did, at the price of the space beside `files.im`.

    Returns: the counts, and what was odd about the sources.
    Raises: DataError: a source is missing or empty; a worker died.
    """
    store = _parts_beside(files.im)
    with store.locked(progress):
        for path in (files.im, files.lf, files.rejected):
            remove_temporaries(path)
        result = _convert(source, files, options, store, lambda *_: None, progress)
        if not keep_parts:
            store.remove()
    return result


def _convert(
    source: Source,
    files: DataFiles,
    options: ConvertOptions,
    store: PartStore,
    check: Callable[[Tally, int], None],
    progress: Progress | None,
) -> tuple[Tally, list[str]]:
    selection = select(
        source.inventory(options.trial.scaffold), options.selection, options.trial.leaks
    )
    parts = convert_trials(
        selection.trials, options.trial, _code(), store, options.num_workers, progress
    )

    tally = write_data(
        selection, parts, options.selection, options.filters, options.pairs, store, files, check
    )
    store.keep_only(part.key for part in parts)
    policy = options.trial.cleaning.secrets.policy
    lost = Counter({kind: tally.log_counts[kind] for kind in Deviation})
    notes = [*selection.notes, *tally.notes, *tally.unread_notes(), *tally.secret_notes(policy)]
    return tally, [*notes, *lines_of(lost)]


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
    selection = select(
        source.inventory(options.trial.scaffold), options.selection, options.trial.leaks
    )
    rows: list[ConvertedRow] = []
    looked_at = selection.trials[:limit]
    converted = [convert_trial(trial, options.trial, rows.append) for trial in looked_at]
    kept = [row for row in rows if not options.filters.limits.find_defect(row.facts)]
    return Peek(
        num_trials=len(selection.trials) + len(selection.rejects),
        num_selected=len(selection.trials),
        num_converted=len(converted),
        num_conversations=len(kept),
        scaffolds=Counter(item.scaffold for item in converted if item.scaffold),
        rows=_examples(kept, options),
        rejects=[reject for item in converted for reject in item.rejects],
        notes=[
            *selection.notes,
            *unlabelled_notes(
                selection.unlabelled,
                [row.facts for row in rows],
                options.selection.instance_status,
            ),
        ],
    )


def _examples(rows: list[ConvertedRow], options: ConvertOptions) -> list[dict[str, Any]]:
    def read(row: ConvertedRow) -> dict[str, Any]:
        return parse_json(row.lf_row)[0]

    if options.pairs is None:
        return [read(row) for row in rows]
    found = pair_up(rows, options.pairs, options.selection.resolved_at, read).pairs
    return [
        make_pair(read(chosen), read(rejected), options.pairs.continuation)
        for chosen, rejected in found
    ]


def _outputs(im_file: Path, lf_file: Path) -> dict[str, Path]:
    sidecars = {name: _sidecar(lf_file, name) for name in ("rejected.jsonl", "stats.json")}
    return {"im": im_file, "lf": lf_file} | sidecars


def _sidecar(lf_file: Path, suffix: str) -> Path:
    return lf_file.with_name(f"{lf_file.name.removesuffix('.json')}.{suffix}")


def _parts_beside(im_file: Path) -> PartStore:
    return PartStore(im_file.with_name(f"{im_file.name}.parts"))


def _input_states(source: Source) -> dict[str, FileState]:
    # Trajectories are hashed by the worker that reads them, and only those that are read.
    raw = {name: FileState.of(path, None) for name, path in source.raw_files().items()}
    labels = source.label_files().items()
    return raw | {name: FileState.of(path, sha256_file(path)) for name, path in labels}


def _fingerprint(options: ConvertOptions) -> dict[str, Any]:
    """The options that decide what is written."""
    filters = options.filters
    limits = {item.name: getattr(filters.limits, item.name) for item in fields(filters.limits)}
    return {
        **{name: _plain(value) for name, value in asdict(options.selection).items()},
        **options.trial.fingerprint(),
        **limits,
        "where": filters.limits.where.text if filters.limits.where else "",
        "duplicates": asdict(filters.duplicates),
        **asdict(filters.caps),
        "pairs": asdict(options.pairs) if options.pairs else None,
        "max_reject_fraction": options.max_reject_fraction,
    }


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    return sorted(value) if isinstance(value, tuple | frozenset) else value


@functools.cache
def _code() -> str:
    """The version of everything that decides what is written."""
    modules = ("jsonl", "preference_pairs", "rejects", "sharegpt", "trajectory")
    files = [_PACKAGE / f"{name}.py" for name in modules]
    rooms = ("conversion", "scaffolds", "quality")
    files.append(_PACKAGE / "export" / "rendered.py")
    files += [path for room in rooms for path in (_PACKAGE / room).rglob("*.py")]
    return code_version([*files, Path(__file__)])


def _check_yield(rejected_file: Path, limit: float, tally: Tally, num_selected: int) -> None:
    if tally.num_kept and tally.num_defective <= limit * num_selected:
        return
    what = f"{tally.num_defective:,} of {num_selected:,} selected trials cannot be used"
    if tally.num_kept == 0:
        what = f"none of {tally.num_read:,} trials was kept"
    raise DataError(
        f"{rejected_file}: {what} ({tally.top_reasons()}); this file "
        "says why for each; a wider instance_status or a higher "
        f"runtime_info.input.conversion.max_reject_fraction (now {limit:g}) lets more pass"
    )
