"""The rows of a data file, IM or LLaMA-Factory, one at a time.

IM is one record per line. LLaMA-Factory files are read line by line too where an example stands on
a line, as we write them; any other layout of the array is read whole. A row that cannot be read is
a `BadRow`, never an error.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.conversion.lf_file import read_rows
from pipeline.errors import DataError
from pipeline.jsonl import NotJsonError, parse_json
from pipeline.sharegpt import detect_format, from_sharegpt
from pipeline.trajectory import Message, Provenance, ToolCall, Trajectory, from_record


@dataclass(slots=True)
class Row:
    """One readable row."""

    number: int
    """1-based; rows of an array, lines of JSONL that are not blank."""
    trajectory: Trajectory
    scores: dict[str, Any] = field(default_factory=dict)
    """`_score` and `_outcome_score` in one dict, {} if not scored."""

    @property
    def id(self) -> str:
        """What tells it from other rows: the trial, else the task; with the chain if not the
        first one."""
        source = self.trajectory.provenance
        name = source.trial_id or source.instance_id or "-"
        return f"{name} {source.chain_id}" if source.chain_id not in ("", "chain-0") else name


@dataclass(frozen=True, slots=True)
class BadRow:
    """One row that cannot be read."""

    number: int
    message: str


def iter_rows(file: Path) -> Iterator[Row | BadRow]:
    """All rows in file order. Raises: DataError: the file cannot be read or is not JSON at all."""
    for number, raw in enumerate(raw_rows(file), 1):
        yield read_row(number, raw)


def find_rows(file: Path, number: int | None, trial: str) -> list[Row]:
    """The row of that number, or all rows of that trial or task; other rows are not decoded.

    Raises: DataError: there is no such row, or it cannot be read; as `iter_rows`.
    """
    found: list[Row] = []
    last = 0
    for last, raw in enumerate(raw_rows(file), 1):
        if number not in (None, last) or trial.encode(errors="surrogateescape") not in raw:
            continue
        row = read_row(last, raw)
        if isinstance(row, BadRow):
            if number is not None:
                raise DataError(f"{file}:{last}: {row.message}; choose another row")
            continue
        source = row.trajectory.provenance
        if not trial or trial in (source.trial_id, source.instance_id):
            found.append(row)
        if number is not None:
            break
    if not found:
        what = f"row {number}" if number is not None else f"trial {trial}"
        raise DataError(f"{file}: no {what} among {last:,} rows; sft inspect {file} lists them")
    return found


def raw_rows(file: Path) -> Iterator[bytes]:
    """The rows as undecoded JSON, in file order. Raises: DataError as `iter_rows`."""
    if not _is_array(file):
        with file.open("rb") as lines:
            yield from (row for line in lines if (row := line.strip()))
    elif _has_rows_on_lines(file):
        with file.open("rb") as lines:
            rows = (line.strip().removesuffix(b",") for line in lines)
            yield from (row for row in rows if row not in (b"", b"[", b"]"))
    else:
        yield from read_rows(file)


def read_row(number: int, raw: bytes) -> Row | BadRow:
    """Decode one row of either format."""
    try:
        value = parse_json(raw)[0]
        if isinstance(value, dict) and value.keys() & {"meta_info", "version"}:
            trajectory = read_im(value)
            labels = (value.get("meta_info") or {}).get("unique_info") or {}
            return Row(number, trajectory, _scores(labels))
        return Row(number, _read_lf(value), _scores(value))
    except (DataError, NotJsonError) as error:
        return BadRow(number, str(error))


def read_im(record: Any) -> Trajectory:
    """`trajectory.from_record` for files of anyone. Raises: DataError: not an IM record."""
    try:
        trajectory = from_record(record)
    except (AttributeError, TypeError) as error:  # a number where an object belongs
        raise DataError(f"not an IM v2.0.0 record ({error})") from None
    for index, message in enumerate(trajectory.messages):
        texts = [message.reasoning_content, message.tool_call_id]
        texts += [call.id for call in message.tool_calls]
        if not all(isinstance(text, str) for text in texts):
            raise DataError(f"messages[{index}]: a text or an id is not a string")
    source = trajectory.provenance
    names = (source.instance_id, source.trial_id, source.chain_id, source.scaffold, source.model)
    if not all(isinstance(name, str) for name in names):
        raise DataError("meta_info.unique_info: a name or an id is not a string")
    if isinstance(source.reward, bool) or not isinstance(source.reward, int | float | None):
        raise DataError(f"meta_info.unique_info._reward: not a number (got {source.reward!r})")
    if not isinstance(trajectory.tools, list):
        raise DataError("tools: not a list")
    return trajectory


def _is_array(file: Path) -> bool:
    try:
        with file.open("rb") as lines:
            return next((line for line in lines if line.strip()), b"").lstrip().startswith(b"[")
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read ({error.strerror}); name an IM or LLaMA-Factory file"
        ) from None


def _has_rows_on_lines(file: Path) -> bool:
    """Whether the second line of an array is a whole example."""
    with file.open("rb") as lines:
        start = next((line for line in lines if line.strip() not in (b"", b"[")), b"")
    try:
        return isinstance(parse_json(start.strip().removesuffix(b","))[0], dict)
    except NotJsonError:
        return False


def _scores(labels: dict[str, Any]) -> dict[str, Any]:
    found = [labels.get(key) for key in ("_score", "_outcome_score")]
    return {k: v for scores in found if isinstance(scores, dict) for k, v in scores.items()}


def _read_lf(row: Any) -> Trajectory:
    if detect_format(row) == "pairs":
        raise DataError(
            "a pair; sft preview TRAIN.yaml shows its two sides, the IM file the conversations"
        )
    chat, tools = from_sharegpt(row)
    source = Provenance(
        instance_id=str(row.get("_instance_id") or ""),
        trial_id=str(row.get("_trial_id") or ""),
        chain_id=str(row.get("_chain_id") or ""),
    )
    return Trajectory([_message(message) for message in chat], tools, source)


def _message(chat: dict[str, Any]) -> Message:
    calls = [
        ToolCall(
            str(call.get("id") or ""),
            call["function"]["name"],
            json.dumps(call["function"]["arguments"], ensure_ascii=False),
        )
        for call in chat.get("tool_calls") or []
    ]
    return Message(
        role=chat["role"],
        content=chat["content"],
        reasoning_content=chat.get("reasoning_content") or "",
        tool_calls=calls,
        weight=chat.get("weight", 1.0),
        tool_call_id=chat.get("tool_call_id") or "",
    )
