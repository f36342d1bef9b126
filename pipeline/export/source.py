"""Trajectories of an IM file that was edited, filtered or scored after STEP 0, line by line."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import DataError
from pipeline.inspect.im_file import ImRecord, open_im, read_record
from pipeline.scaffolds.validate import find_defect

WAY_OUT = "correct or remove this line"


def read_records(im_file: Path) -> Iterator[tuple[str, ImRecord]]:
    """`<file>:<line>` and the record of every line that is not blank.

    Raises: DataError: the file cannot be read or holds no record, or a record cannot be trained on;
        names the line.
    """
    where = ""
    with open_im(im_file) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{im_file}:{number}"
                yield where, _record(line, where)
    if not where:
        raise DataError(f"{im_file}: holds no record; name an IM file")


def _record(line: bytes, where: str) -> ImRecord:
    try:
        record = read_record(line)
    except DataError as error:
        raise DataError(f"{where}: {error}; {WAY_OUT}") from None
    defect = find_defect(record.trajectory.messages, record.trajectory.tools)
    if defect:
        raise DataError(f"{where}: {defect.message} ({defect.reason}); {WAY_OUT}")
    return record
