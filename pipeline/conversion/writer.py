"""Converted trials -> IM JSONL, LLaMA-Factory JSON and the list of rejects, together or not at all.

Law: trials read = kept + rejected.
"""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.conversion.lf_file import RowWriter
from pipeline.conversion.stats import Tally
from pipeline.conversion.trial import TrialOptions, convert_trial
from pipeline.conversion.trials import Selection
from pipeline.conversion.workers import map_in_order
from pipeline.files import atomic_open, write_bytes
from pipeline.jsonl import encode_json
from pipeline.progress import Progress


@dataclass(frozen=True)
class DataFiles:
    """What a conversion writes."""

    im: Path
    lf: Path
    rejected: Path


def write_data(
    selection: Selection,
    options: TrialOptions,
    num_workers: int,
    files: DataFiles,
    check: Callable[[Tally], None],
    progress: Progress | None = None,
) -> Tally:
    """Convert the selected trials in order. Memory is bounded by the largest, a few per worker.

    `num_workers` 0: one per core. `check` sees the counts when the rejects are written but the data
    is not in its place yet; if it raises, the earlier data stays.
    """
    tally = Tally()
    tally.add_unselected(selection.rejects)
    work = functools.partial(convert_trial, options=options)
    with contextlib.ExitStack() as stack:
        im = stack.enter_context(atomic_open(files.im))
        lf = stack.enter_context(atomic_open(files.lf))
        results = stack.enter_context(
            map_in_order(work, selection.trials, num_workers, lambda trial: str(trial.raw_dir))
        )
        writer = RowWriter(lf)
        for number, converted in enumerate(results, 1):
            tally.add(converted)
            for im_line, lf_row in zip(converted.im_lines, converted.lf_rows, strict=True):
                im.write(im_line + b"\n")
                writer.write(lf_row)
            if progress:
                progress.update(number, len(selection.trials))
        writer.close()
        assert tally.num_read == tally.num_kept + tally.num_rejected
        lines = (encode_json(reject.to_record()) + b"\n" for reject in tally.rejects)
        write_bytes(files.rejected, b"".join(lines))
        check(tally)
    return tally
