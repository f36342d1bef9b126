"""Checks of the raw data, the converted data and its registration."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.config.schema import Source as SourceConfig
from pipeline.conversion.lf_file import read_rows, validate_lf
from pipeline.conversion.source import Source
from pipeline.jsonl import parse_json
from pipeline.paths import from_root
from pipeline.preflight.model import readable_model
from pipeline.preflight.report import Check, Context
from pipeline.runs.conversion_options import convert_options, lf_format_of, raw_source
from pipeline.sharegpt import LfFormat
from pipeline.step0_convert import ConvertOptions, Peek, peek, stale_reason
from pipeline.step1_register import dataset_entry, read_info
from pipeline.trainer.args import dataset_names
from pipeline.trainer.data.dataset import find_datasets

PEEK_TRIALS = 16
"""Trials that are converted in memory when STEP 0 has not run yet."""
SAMPLE_ROWS = 200
"""Rows that are rendered to estimate tokens."""


@dataclass(frozen=True)
class Sample:
    """Rows to estimate from, and how many there will be in all."""

    rows: list[dict[str, Any]]
    num_rows: int
    is_exact: bool
    """Whether `num_rows` is known, not extrapolated."""


def check_source(context: Context) -> Iterator[Check]:
    source = context.given.source
    raw = raw_source(context.config)
    if raw:
        yield from _check_raw(context, raw)
    elif source.type == "local_lf":
        yield from _check_file(source)
    else:
        what = source.hf_file_name or f"{source.hf_subset or 'default'}/{source.hf_split}"
        yield Check(
            "OK",
            "source",
            f"{source.hf_hub_url} ({what}, revision {source.hf_revision}) is downloaded at start",
        )


def _check_raw(context: Context, raw: Source) -> Iterator[Check]:
    seen = _peek(context)
    yield Check(
        "OK" if seen.num_selected else "FAIL",
        "source",
        f"{raw.path}: {seen.num_trials:,} trials, {seen.num_selected:,} selected",
        "" if seen.num_selected else "check conversion.instance_status and exclude_repos_file",
    )
    for note in seen.notes:
        yield Check("WARN", "source", note)
    if seen.num_converted:
        found = ", ".join(f"{count} {name}" for name, count in sorted(seen.scaffolds.items()))
        looked = f"of {seen.num_converted} trials looked into: {found or 'no scaffold recognised'}"
        if seen.num_conversations:
            yield _check_conversations(context, seen, looked)
        else:
            reasons = "; ".join(sorted({f"{r.reason}: {r.message}" for r in seen.rejects})[:3])
            yield Check(
                "FAIL",
                "source",
                f"{looked}; none gives a conversation ({reasons})",
                "check source.scaffold",
            )
    paths = context.paths
    reason = stale_reason(raw, paths.im_file, paths.lf_file, _options(context))
    if reason is None:
        yield Check("OK", "data", f"{paths.lf_file} is current; STEP 0 will be skipped")
    else:
        yield Check("OK", "data", f"STEP 0 will run: {reason}")


def _check_conversations(context: Context, seen: Peek, looked: str) -> Check:
    gives = f"{looked}; they give {seen.num_conversations} conversations"
    if context.given.conversion.pairs is None:
        return Check("OK", "source", gives)
    if seen.rows:
        return Check("OK", "source", f"{gives}, which make {len(seen.rows)} pairs")
    return Check(
        "WARN" if seen.num_converted < seen.num_selected else "FAIL",
        "source",
        f"{gives}, of which none makes a pair",
        "a pair needs a resolved and a failed attempt at one task by one agent",
    )


def _check_file(source: SourceConfig) -> Iterator[Check]:
    file = from_root(source.lf_path)
    summary = validate_lf(file)
    text = f"{file}: {summary.num_rows:,} rows ({summary.lf_format})"
    if summary.num_bad:
        first = summary.first_errors[0]
        yield Check("WARN", "source", f"{text}, {summary.num_bad:,} unusable; the first: {first}")
    else:
        yield Check("OK", "source", text)


def check_dataset_entry(context: Context) -> Iterator[Check]:
    yield from _check_own_entry(context)
    given = context.given
    others = given.dataset.mixed_with + dataset_names(given.training.eval_dataset)
    if others:
        if given.infrastructure.engine == "native":
            find_datasets(context.paths.dataset_dir, ",".join(others), given.training.stage)
        yield Check(
            "OK",
            "dataset",
            f"beside it: {', '.join(others)}; what follows about tokens is without them",
        )


def _check_own_entry(context: Context) -> Iterator[Check]:
    paths = context.paths
    info_file = paths.dataset_dir / "dataset_info.json"
    entry = read_info(info_file).get(paths.dataset_name)
    if entry is None:
        yield Check("OK", "dataset", f"{paths.dataset_name} will be registered in {info_file}")
        return
    file, lf_format = _data_file(context)
    if file is None or entry == dataset_entry(paths.dataset_dir, file, lf_format):
        yield Check("OK", "dataset", f"{paths.dataset_name} is registered in {info_file}")
    else:
        yield Check(
            "WARN",
            "dataset",
            f"{paths.dataset_name} stands for {entry.get('file_name')} and will be changed",
            "set dataset.name if another run still needs the old one",
        )


def _options(context: Context) -> ConvertOptions:
    return convert_options(context.config, lambda: readable_model(context))


def _data_file(context: Context) -> tuple[Path | None, LfFormat]:
    """The file that will be registered; None when it is not known yet."""
    given, paths = context.given, context.paths
    if raw_source(context.config):
        return paths.lf_file, lf_format_of(given.conversion)
    if given.source.type == "hf_lf":
        return None, "structured"
    summary = validate_lf(from_root(given.source.lf_path))
    capped = 0 < given.conversion.max_instances < summary.num_rows
    return paths.lf_file if capped else from_root(given.source.lf_path), summary.lf_format


def sample_rows_of(context: Context) -> Sample | None:
    """Rows of the data as it is, or of a few trials converted in memory. None: not on this disk."""
    given, paths = context.given, context.paths
    if given.source.type == "hf_lf":
        return None
    if given.source.type == "local_lf":
        return _sample_file(from_root(given.source.lf_path), given.conversion.max_instances)
    raw = raw_source(context.config)
    assert raw is not None  # the types without one are above
    if stale_reason(raw, paths.im_file, paths.lf_file, _options(context)) is None:
        return _sample_file(paths.lf_file, 0)
    seen = _peek(context)
    if not seen.rows:
        return None
    estimate = round(len(seen.rows) * seen.num_selected / seen.num_converted)
    return Sample(seen.rows, estimate, seen.num_converted == seen.num_selected)


def _sample_file(file: Path, cap: int) -> Sample:
    raw = list(read_rows(file))
    rows = [parse_json(row)[0] for row in islice(raw, SAMPLE_ROWS)]
    return Sample(rows, min(cap, len(raw)) if cap else len(raw), True)


@lru_cache(maxsize=1)
def _peek_at(raw: Source, options: ConvertOptions) -> Peek:
    return peek(raw, options, PEEK_TRIALS)


def _peek(context: Context) -> Peek:
    raw = raw_source(context.config)
    assert raw is not None  # asked for only where there is something to convert
    return _peek_at(raw, _options(context))
