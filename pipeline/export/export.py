"""IM file -> file of one target: same order, one row each, memory of one row group."""

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import DataError
from pipeline.export.deviations import Deviation, Exported
from pipeline.export.source import WAY_OUT, read_records
from pipeline.export.targets import Target
from pipeline.files import atomic_open
from pipeline.sharegpt import score_column


@dataclass(slots=True)
class ExportReport:
    """What `export_im` did."""

    num_rows: int = 0
    deviations: Counter[Deviation] = field(default_factory=Counter)
    """How many turns, messages or calls the target could not take as they are."""

    def to_record(self) -> dict[str, Any]:
        return {
            "examples": self.num_rows,
            "deviations": {str(k): n for k, n in self.deviations.items()},
        }


def export_im(im_file: Path, out: Path, target: Target, tokenizer: Any = None) -> ExportReport:
    """Write one row for each record. `tokenizer`: of the model, for targets that are rendered.

    Raises: DataError: the file cannot be read, or a record cannot be trained on or expressed; names
        the line. Then nothing is written.
    """
    convert: Callable[..., Exported] = target.convert
    if target.is_rendered:
        convert = partial(convert, tokenizer=tokenizer)
    report = ExportReport()
    with atomic_open(out) as file, closing(target.open_writer(file)) as writer:
        for where, record in read_records(im_file):
            try:
                exported = convert(record.trajectory)
                score = score_column(record.unique_info) if target.has_score else {}
                writer.write(exported.row | score)
            except (DataError, UnicodeEncodeError) as error:
                raise DataError(f"{where}: {error}; {WAY_OUT}") from None
            report.num_rows += 1
            report.deviations += exported.deviations
    return report
