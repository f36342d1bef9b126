"""The rows of registered datasets: dataset_info.json and the files it names.

A dataset's entry says where the rows are (`file_name`, or `hf_hub_url` with `subset` and `split`)
and how they are written (`formatting: sharegpt` or, for texts, `alpaca`; `columns`, `tags`), as
LLaMA-Factory defines it.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DataError
from pipeline.files import atomic_open, sha256_file
from pipeline.jsonl import encode_json
from pipeline.text_rows import TEXT_SUFFIX, read_text_rows
from pipeline.trainer.data.row_file import decode_row, read_raw_rows
from pipeline.trainer.keys.finetuning import PAIR_STAGES, Stage

_ROLES = {  # tag -> its default value; the canonical name of the role in ShareGPT
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_REFUSED = {  # keys of an entry that would change what is trained, and what to do instead
    "num_samples": "LLaMA-Factory draws that many rows without a seed; remove it and write "
    "training.max_samples, or take a sample into a file of its own",
}
_FORMATTING: dict[Stage, str] = {
    "sft": "sharegpt",
    "pt": "alpaca",
    "dpo": "sharegpt",
    "rm": "sharegpt",
}
_SIDES = ("chosen", "rejected")
_PLAIN_ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


@dataclass(frozen=True)
class Dataset:
    """One entry of dataset_info.json."""

    name: str
    info_file: Path
    entry: dict[str, Any]

    @property
    def file(self) -> Path | None:
        """The local data file, or None when the rows come from the Hub."""
        name = self.entry.get("file_name")
        return self.info_file.parent / name if name else None

    def fingerprint(self, sha256: Callable[[Path], str] = sha256_file) -> str:
        """Hash of the entry and of the bytes it names (for the Hub: of the pinned revision).

        `sha256`: of a file, in hex; for callers that know it without reading.
        """
        digest = hashlib.sha256(json.dumps(self.entry, sort_keys=True).encode())
        if self.file is not None:
            digest.update(sha256(self.file).encode())
        return digest.hexdigest()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Rows as they are written, in file order.

        Raises: DataError: the file is no JSON or no list of objects; names the line.
        """
        if self.file is None:
            yield from _hub_rows(self.entry)
            return
        if self._is_plain_text:
            yield from read_text_rows(self.file)
            return
        for row in read_raw_rows(self.file):
            yield decode_row(row.raw, f"{self.file}:{row.line}")

    def local_file(self, directory: Path) -> Path:
        """The file of JSON rows; those of the Hub or of a .txt are written to `directory` first."""
        if self.file is not None and not self._is_plain_text:
            return self.file
        file = directory / f"{self.name}.jsonl"
        with atomic_open(file) as stream:
            for row in self.rows():
                stream.write(encode_json(row) + b"\n")
        return file

    @property
    def _is_plain_text(self) -> bool:
        return self.file is not None and self.file.suffix == TEXT_SUFFIX

    def reading(self) -> str:
        """Hash of what the entry says about how a row is to be read."""
        how = [self.entry.get("columns") or {}, self.entry.get("tags") or {}]
        return hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()

    def canonical(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with what `columns` and `tags` rename undone, as `from_sharegpt` reads it, with
        lists of turns `chosen` and `rejected` where the dataset is of pairs, or {"text": str}.

        Raises: DataError: the row has no list of turns, no such side, or no text.
        """
        columns = self.entry.get("columns") or {}
        if self.entry.get("formatting", "alpaca") == "alpaca":
            return {"text": _text(row, columns or {"prompt": "instruction", "query": "input"})}
        tags = self.entry.get("tags") or {}
        column = columns.get("messages", "conversations")
        if not isinstance(row.get(column), list):
            raise DataError(f"column {column!r} is missing or no list")
        turns = [_canonical_turn(turn, tags) for turn in row[column]]
        system = row.get(columns.get("system", "system"))
        if system and not (turns and turns[0]["from"] == "system"):
            turns.insert(0, {"from": "system", "value": system})
        tools = row.get(columns.get("tools", "tools")) or ""
        if self.entry.get("ranking"):
            sides = {side: _side(row, columns.get(side, side), tags) for side in _SIDES}
            return {"conversations": turns, "tools": tools, **sides}
        if column == "messages" and not tools and all(t["from"] in _PLAIN_ROLES for t in turns):
            # Text that is rendered already: no reasoning or call is to be read out of it.
            return {"messages": [_plain_turn(**turn) for turn in turns]}
        return {"conversations": turns, "tools": tools}


def read_score(row: dict[str, Any]) -> float | None:
    """What a row says it is worth in `_score`: a number, or a number as text; "": nothing.

    Raises: DataError: it says something else.
    """
    value = row.get("_score")
    if value in (None, ""):
        return None
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise DataError(f"_score: not a number (got {value!r})")
    return score


def find_datasets(dataset_dir: Path, names: str, stage: Stage | None = None) -> list[Dataset]:
    """The entries of `names` (comma-separated) in `<dataset_dir>/dataset_info.json`.

    `stage`: of the native engine, which is to train on them; None: another engine.

    Raises: DataError: no such file, broken JSON, an unknown name, an entry that cannot be read or
        holds nothing for this stage.
    """
    info_file = dataset_dir / "dataset_info.json"
    try:
        info = json.loads(info_file.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{info_file}: not found; register the dataset first (STEP 1)") from None
    except ValueError as error:
        raise DataError(f"{info_file}: not JSON ({error}); repair or delete it") from error
    if not isinstance(info, dict):
        raise DataError(f"{info_file}: not a JSON object (got {type(info).__name__})")
    datasets = []
    for name in (part.strip() for part in names.split(",")):
        if name not in info:
            known = ", ".join(sorted(info)) or "none"
            raise DataError(f"{info_file}: no dataset {name!r} is registered (known: {known})")
        entry = info[name]
        if not isinstance(entry, dict) or not (entry.get("file_name") or entry.get("hf_hub_url")):
            raise DataError(f"{info_file}: {name}: needs file_name or hf_hub_url")
        dataset = Dataset(name, info_file, entry)
        if stage and entry.get("formatting", "alpaca") != _FORMATTING[stage]:
            raise DataError(
                f"{info_file}: {name}: formatting must be {_FORMATTING[stage]} for stage {stage} "
                "of the native engine"
            )
        refused = next((key for key in _REFUSED if entry.get(key)), None)
        if refused is not None:
            raise DataError(f"{info_file}: {name}: {refused}: {_REFUSED[refused]}")
        if stage and bool(entry.get("ranking")) != (stage in PAIR_STAGES):
            raise DataError(
                f"{info_file}: {name}: "
                + (
                    f"stage {stage} needs pairs (ranking: true, with columns chosen and rejected)"
                    if stage in PAIR_STAGES
                    else f"holds pairs (ranking: true), for stage dpo or rm, not {stage}"
                )
            )
        if dataset.file is not None and not dataset.file.is_file():
            raise DataError(f"{dataset.file}: the data file of dataset {name!r} does not exist")
        datasets.append(dataset)
    return datasets


def _hub_rows(entry: dict[str, Any]) -> Iterable[dict[str, Any]]:
    import datasets

    return datasets.load_dataset(  # type: ignore[return-value]  # split given: a Dataset
        entry["hf_hub_url"],
        entry.get("subset"),
        split=entry.get("split", "train"),
        revision=entry.get("revision"),
    )


def _side(row: dict[str, Any], column: str, tags: dict[str, str]) -> list[dict[str, Any]]:
    """One turn, as LLaMA-Factory has it, or a list of them."""
    given = row.get(column)
    if not isinstance(given, dict | list):
        raise DataError(f"column {column!r} is missing or neither a turn nor a list of turns")
    return [_canonical_turn(turn, tags) for turn in ([given] if isinstance(given, dict) else given)]


def _text(row: dict[str, Any], columns: dict[str, str]) -> str:
    """The columns `prompt` and `query`, those of them that say something, one below the other."""
    names = [columns[key] for key in ("prompt", "query") if columns.get(key)]
    if not any(name in row for name in names):
        raise DataError(f"column {names[0] if names else 'prompt'!r} is missing")
    parts = [row[name] for name in names if row.get(name)]
    if not all(isinstance(part, str) for part in parts):
        raise DataError(f"column {names[0]!r}: not a text")
    return "\n".join(parts)


def _canonical_turn(turn: Any, tags: dict[str, str]) -> dict[str, Any]:
    if not isinstance(turn, dict):
        return {"from": None, "value": turn}
    role_tag, content_tag = tags.get("role_tag", "from"), tags.get("content_tag", "value")
    names = {tags.get(tag, default): default for tag, default in _ROLES.items()}
    role = str(turn.get(role_tag))
    rest = {key: value for key, value in turn.items() if key not in (role_tag, content_tag)}
    return {**rest, "from": names.get(role, role), "value": turn.get(content_tag)}


def _plain_turn(**turn: Any) -> dict[str, Any]:
    role, content = _PLAIN_ROLES[turn.pop("from")], turn.pop("value")
    return {"role": role, "content": content, **turn}
