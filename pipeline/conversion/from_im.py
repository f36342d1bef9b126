"""IM JSONL -> LLaMA-Factory JSON, for IM that was edited, filtered or scored after STEP 0."""

from pathlib import Path

from pipeline.conversion.lf_file import RowWriter
from pipeline.errors import DataError
from pipeline.files import atomic_open
from pipeline.jsonl import NotJsonError, encode_json, parse_json
from pipeline.scaffolds.validate import find_defect
from pipeline.sharegpt import to_sharegpt
from pipeline.trajectory import from_record


def im_to_lf(im_file: Path, lf_file: Path) -> int:
    """Write one example for each record, in the same order.

    Returns: how many.
    Raises: DataError: the file cannot be read, or a record cannot be trained on; names the line.
        Then nothing is written.
    """
    count = 0
    try:
        source = im_file.open("rb")
    except OSError as error:
        raise DataError(f"{im_file}: cannot be read ({error.strerror}); name an IM file") from None
    with source, atomic_open(lf_file) as file:
        writer = RowWriter(file)
        for number, line in enumerate(source, 1):
            if line.strip():
                writer.write(_example(line, f"{im_file}:{number}"))
                count += 1
        writer.close()
    return count


def _example(line: bytes, where: str) -> bytes:
    try:
        trajectory = from_record(parse_json(line)[0])
        defect = find_defect(trajectory.messages, trajectory.tools)
        if defect:
            raise DataError(f"{defect.message} ({defect.reason})")
        return encode_json(to_sharegpt(trajectory))
    except (DataError, NotJsonError, UnicodeEncodeError) as error:
        raise DataError(f"{where}: {error}; correct or remove this line") from None
