"""Trials -> IM JSONL, LLaMA-Factory JSON and the list of rejects, together or not at all.

Each trial becomes a part on disk, in any process; then all parts are filtered and written, in the
order of the trials. So the outputs do not depend on how often the work was interrupted.

Law: trials read = kept + rejected.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.conversion.filters import Choice, Filters, choose, unlabelled_notes
from pipeline.conversion.lf_file import RowWriter
from pipeline.conversion.paired_rows import PairedRows
from pipeline.conversion.pairing import PairRules
from pipeline.conversion.parts import Part, PartStore, key_of
from pipeline.conversion.selection import Selection, SelectionRules
from pipeline.conversion.stats import Tally
from pipeline.conversion.trial import TrialOptions, convert_trial
from pipeline.conversion.trials import Trial
from pipeline.conversion.workers import map_in_order
from pipeline.errors import DataError
from pipeline.files import atomic_open, write_bytes
from pipeline.jsonl import encode_json
from pipeline.progress import Progress
from pipeline.rejects import RejectReason


@dataclass(frozen=True)
class DataFiles:
    """What a conversion writes."""

    im: Path
    lf: Path
    rejected: Path


@dataclass(frozen=True, slots=True)
class _Work:
    trial: Trial
    key: str


def convert_trials(
    trials: Sequence[Trial],
    options: TrialOptions,
    code: str,
    store: PartStore,
    num_workers: int,
    progress: Progress | None = None,
) -> list[Part]:
    """One part for each trial, in order; those that are there already are not made again.

    `code`: the version of the converting code. `num_workers` 0: one per core.
    Raises: DataError: a worker died.
    """
    fingerprint = options.fingerprint()
    work = [_Work(trial, _key(trial, fingerprint, code)) for trial in trials]
    make = functools.partial(_make_part, options=options, store=store)
    parts: list[Part] = []
    with map_in_order(make, work, num_workers, lambda item: str(item.trial.raw_dir)) as results:
        for part in results:
            parts.append(part)
            if progress:
                progress.update(len(parts), len(work))
    return parts


def _key(trial: Trial, fingerprint: dict, code: str) -> str:
    labels = asdict(trial)
    directory = labels.pop("raw_dir")  # the same job elsewhere is the same job
    del labels["weight"]  # decides how often a row is written, not what is in it
    states: list[tuple[str, int, int]] = []
    for name in trial.raw_names:
        with contextlib.suppress(OSError):  # found out when it is read
            status = (directory / name).stat()
            states.append((name, status.st_size, status.st_mtime_ns))
    return key_of(code, fingerprint, labels, states)


def _make_part(work: _Work, options: TrialOptions, store: PartStore) -> Part:
    found = store.find(work.key)
    # What could not be read may be readable now, with no sign of it in size or time of change.
    if found and all(reject.reason != RejectReason.UNREADABLE_FILE for reject in found.rejects):
        return found
    return store.write(work.key, functools.partial(convert_trial, work.trial, options))


def write_data(
    selection: Selection,
    parts: Sequence[Part],
    rules: SelectionRules,
    filters: Filters,
    pairs: PairRules | None,
    store: PartStore,
    files: DataFiles,
    check: Callable[[Tally, int], None],
) -> Tally:
    """Filter and write the parts of the selected trials. Memory: what parts keep of each row.

    Args:
        pairs: the examples are pairs, and only what stands in one is kept. None: no pairs.
        check: sees the counts, and how many trials were selected. If it raises DataError, the
            rejects are written and the earlier data stays.
    """
    choices, notes = choose(parts, rules, filters)
    paired = None
    if pairs is not None:
        paired = PairedRows.of(choices, selection.copies, pairs, rules.resolved_at, store)
    facts = [row.facts for part in parts for row in part.rows]
    notes += unlabelled_notes(selection.unlabelled, facts, rules.instance_status)
    tally = Tally(notes=notes, num_pairs=paired.count() if paired else None)
    tally.add_unselected(selection.rejects)
    for choice in choices:
        tally.add(choice)
    assert tally.num_read == tally.num_kept + tally.num_rejected
    kept = {choice.part.trial for choice in choices if choice.kept}
    records = (reject.to_record(trial_kept=reject.trial in kept) for reject in tally.rejects)
    rejects = b"".join(encode_json(record) + b"\n" for record in records)
    try:
        check(tally, len(selection.trials))
    except DataError:
        write_bytes(files.rejected, rejects)
        raise
    with (
        atomic_open(files.im) as im,
        atomic_open(files.lf) as lf,
        atomic_open(files.rejected) as rejected,
    ):
        rejected.write(rejects)
        writer = RowWriter(lf)
        for copies, choice in zip(selection.copies, choices, strict=True):
            for im_line, lf_row in _rows(choice, copies, store):
                im.write(im_line + b"\n")
                if paired is None:
                    writer.write(lf_row)
        for example in paired.examples() if paired else ():
            writer.write(example)
        writer.close()
    return tally


def _rows(choice: Choice, copies: int, store: PartStore) -> Iterator[tuple[bytes, bytes]]:
    """What is written of a trial."""
    kept = {id(row) for row in choice.kept}
    for _ in range(copies if kept else 0):
        for row, written in zip(choice.part.rows, store.rows(choice.part), strict=True):
            if id(row) in kept:
                yield written
