"""Scores of an IM file: computed for every record, written into `meta_info.unique_info`.

    _score          the rule score (quality.rule_score), with the `llm_*` fields that were there;
                    null for subagents
    _outcome_score  ours (quality.rule_score_outcome); null for subagents

Every other value of a record stays as it is. Lines that are no record are kept byte for byte.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import DataError
from pipeline.files import atomic_open
from pipeline.inspect.figures import Distribution
from pipeline.inspect.rows import read_im
from pipeline.jsonl import NotJsonError, encode_json, parse_json
from pipeline.quality.rule_score.outcome import score_fields


@dataclass(slots=True)
class ScoreReport:
    """What `rescore` did."""

    im_file: Path
    out: Path
    num_rows: int = 0
    num_scored: int = 0
    num_subagents: int = 0
    errors: list[str] = field(default_factory=list)
    """`<file>:<line>: <what>` for each line that is no IM record."""
    values: dict[str, list[float]] = field(default_factory=dict)
    """Score -> its value for every record that has it."""

    @property
    def distributions(self) -> dict[str, Distribution]:
        found = {name: Distribution.of(values) for name, values in self.values.items()}
        return {name: value for name, value in found.items() if value is not None}

    def to_record(self) -> dict[str, Any]:
        return {
            "rows": self.num_rows,
            "scored": self.num_scored,
            "subagents": self.num_subagents,
            "unreadable": len(self.errors),
            "scores": {name: value.to_record() for name, value in self.distributions.items()},
            "out": str(self.out),
        }


def rescore(im_file: Path, out: Path | None = None) -> ScoreReport:
    """Score all records of an IM file and write them to `out`, or back in place.

    The file is replaced when all is done. Memory is one record.

    Raises: DataError: the file cannot be read, or holds no IM record (nothing is written).
    """
    report = ScoreReport(im_file, out or im_file)
    try:
        lines = im_file.open("rb")
    except OSError as error:
        raise DataError(f"{im_file}: cannot be read ({error.strerror}); name an IM file") from None
    with lines, atomic_open(report.out) as target:
        for number, line in enumerate(lines, 1):
            target.write(_rescored(line, number, report) if line.strip() else line)
        if report.num_rows == len(report.errors):
            first = report.errors[0] if report.errors else f"{im_file}: holds no record"
            raise DataError(f"{first}; nothing was scored, name an IM v2.0.0 file")
    return report


def _rescored(line: bytes, number: int, report: ScoreReport) -> bytes:
    report.num_rows += 1
    try:
        record, is_lenient = parse_json(line.strip())
        scores = _scores(record)
    except (DataError, NotJsonError) as error:
        report.errors.append(f"{report.im_file}:{number}: {error}")
        return line
    unique_info = _unique_info(record)
    earlier = unique_info.get("_score")
    if scores is None:
        report.num_subagents += 1
        unique_info |= {"_score": None, "_outcome_score": None}
    else:
        report.num_scored += 1
        for name in ("composite_score", "process_score", "outcome_score"):
            value = scores["_score"].get(name, scores["_outcome_score"].get(name))
            if value is not None:
                report.values.setdefault(name, []).append(value)
        judged = earlier if isinstance(earlier, dict) else {}
        scores["_score"] |= {key: v for key, v in judged.items() if key.startswith("llm_")}
        unique_info |= scores
    # What needed the lenient parser (NaN, lone surrogates) only the standard library can write.
    return (json.dumps(record).encode() if is_lenient else encode_json(record)) + b"\n"


def _unique_info(record: dict[str, Any]) -> dict[str, Any]:
    meta_info = record["meta_info"] = record.get("meta_info") or {}
    unique_info = meta_info["unique_info"] = meta_info.get("unique_info") or {}
    return unique_info


def _scores(record: Any) -> dict[str, dict[str, Any]] | None:
    trajectory = read_im(record)
    if _unique_info(record).get("_agent_type") == "subagent":
        return None
    return score_fields(trajectory)
