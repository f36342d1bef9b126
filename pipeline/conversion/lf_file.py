"""Files of LLaMA-Factory examples: a JSON array, or one JSON object per line.

What we write is an array with one example per line, which both people and `head` can read.
"""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from pipeline.errors import DataError
from pipeline.files import atomic_open
from pipeline.jsonl import NotJsonError, encode_json, parse_json, parse_json_leniently
from pipeline.preference_pairs import pair_sides
from pipeline.sharegpt import LfFormat, detect_format, from_sharegpt
from pipeline.text_rows import TEXT_SUFFIX, read_text_rows

_NUM_ERRORS_SHOWN = 5


class RowWriter:
    """Writes examples as a JSON array, one per line. `close` ends the array."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._separator = b"[\n"

    def write(self, row: bytes) -> None:
        self._file.write(self._separator + row)
        self._separator = b",\n"

    def close(self) -> None:
        self._file.write(b"[]\n" if self._separator == b"[\n" else b"\n]\n")


@dataclass(frozen=True)
class LfSummary:
    """What `validate_lf` found."""

    lf_format: LfFormat
    num_rows: int
    num_bad: int
    first_errors: tuple[str, ...]
    """`<file>: row <n>: <key>: <what>`, rows counted from 1."""


def read_rows(lf_file: Path) -> Iterator[bytes]:
    """The examples as undecoded JSON, in file order; of a .txt file, its lines.

    Raises: DataError: the file is missing, or is neither an array nor lines of JSON.
    """
    try:
        if lf_file.suffix == TEXT_SUFFIX:
            yield from map(encode_json, read_text_rows(lf_file))
            return
        data = lf_file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{lf_file}: cannot be read ({error.strerror}); "
            "set runtime_info.input.source.lf_path to a file of examples"
        ) from None
    if not data.lstrip().startswith(b"["):
        yield from (line for line in data.splitlines() if line.strip())
        return
    try:
        rows: Iterable[msgspec.Raw] = msgspec.json.decode(data, type=list[msgspec.Raw])
        yield from (bytes(row) for row in rows)
        return
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass  # the lenient parser may read it, or say where it breaks
    try:
        values = parse_json_leniently(data)
    except NotJsonError as error:
        raise DataError(f"{lf_file}: not a JSON array: {error}; make the file again") from None
    yield from (json.dumps(value).encode() for value in values)


def validate_lf(lf_file: Path) -> LfSummary:
    """Check every example the way training will read it.

    Raises: DataError: the file cannot be read, holds no example, mixes two formats, or holds no
        usable example.
    """
    formats: dict[LfFormat, int] = {}
    errors: list[str] = []
    num_rows = num_bad = 0
    for num_rows, raw in enumerate(read_rows(lf_file), 1):
        try:
            row = parse_json(raw)[0]
            lf_format = detect_format(row)
            formats.setdefault(lf_format, num_rows)
            if lf_format == "pairs":
                for side in pair_sides(row):
                    from_sharegpt(side)
            elif lf_format != "text":
                from_sharegpt(row)
        except (DataError, NotJsonError) as error:
            num_bad += 1
            if len(errors) < _NUM_ERRORS_SHOWN:
                errors.append(f"{lf_file}: row {num_rows}: {error}")
    if len(formats) > 1:
        (first, _), (second, row_number) = formats.items()
        raise DataError(
            f"{lf_file}: row {row_number}: has {second}, but earlier rows have {first}; "
            "split the file into one per format"
        )
    if num_bad == num_rows:
        found = errors[0] if errors else f"{lf_file}: holds no example"
        raise DataError(f"{found}; no usable example, choose another file")
    return LfSummary(next(iter(formats)), num_rows, num_bad, tuple(errors))


def sample_rows(lf_file: Path, out_file: Path, max_instances: int, seed: int) -> int:
    """Write at most `max_instances` examples (0: all), drawn without replacement, in file order.

    Returns: how many were written. Raises: DataError: as `read_rows`.
    """
    rows = list(read_rows(lf_file))
    if 0 < max_instances < len(rows):
        chosen = random.Random(seed).sample(range(len(rows)), max_instances)
        rows = [rows[index] for index in sorted(chosen)]
    with atomic_open(out_file) as file:
        writer = RowWriter(file)
        for row in rows:
            writer.write(row.replace(b"\n", b" "))  # raw line breaks only stand between tokens
        writer.close()
    return len(rows)
