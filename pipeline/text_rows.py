"""The rows of a plain text file: every line that is not blank is a text.

first line / second line  ->  {"text": "first line"}, {"text": "second line"}
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import DataError

TEXT_SUFFIX = ".txt"


def read_text_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Raises: DataError: the file is not UTF-8; names the line."""
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                text = line.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{file}:{number}: not UTF-8 ({error.reason}); convert the file"
                ) from None
            if text.strip():
                yield {"text": text}
