"""The rows of registered datasets: dataset_info.json and the files it names.

A dataset's entry says where the rows are (`file_name`, or `hf_hub_url` with `subset` and `split`)
and how they are written (`formatting: sharegpt`, `columns`, `tags`), as LLaMA-Factory defines it.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pipeline.errors import DataError
from pipeline.files import sha256_file

_ROLES = {  # tag -> its default value; the canonical name of the role in ShareGPT
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}


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

    def fingerprint(self) -> str:
        """Hash of the entry and of the bytes it names (for the Hub: of the pinned revision)."""
        digest = hashlib.sha256(json.dumps(self.entry, sort_keys=True).encode())
        if self.file is not None:
            digest.update(sha256_file(self.file).encode())
        return digest.hexdigest()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Rows in file order, in the shape that `from_sharegpt` reads."""
        for row in self._raw_rows():
            yield _canonical_names(row, self.entry)

    def _raw_rows(self) -> Iterable[dict[str, Any]]:
        if self.file is None:
            return _hub_rows(self.entry)
        return _file_rows(self.file)


def find_datasets(dataset_dir: Path, names: str) -> list[Dataset]:
    """The entries of `names` (comma-separated) in `<dataset_dir>/dataset_info.json`.

    Raises: DataError: no such file, broken JSON, an unknown name, an entry that cannot be read.
    """
    info_file = dataset_dir / "dataset_info.json"
    try:
        info = json.loads(info_file.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{info_file}: not found; register the dataset first (STEP 1)") from None
    except ValueError as error:
        raise DataError(f"{info_file}: not JSON ({error}); repair or delete it") from error
    datasets = []
    for name in (part.strip() for part in names.split(",")):
        if name not in info:
            known = ", ".join(sorted(info)) or "none"
            raise DataError(f"{info_file}: no dataset {name!r} is registered (known: {known})")
        dataset = Dataset(name, info_file, info[name])
        if dataset.entry.get("formatting", "alpaca") != "sharegpt":
            raise DataError(
                f"{info_file}: {name}: formatting must be sharegpt for the native engine"
            )
        if dataset.file is not None and not dataset.file.is_file():
            raise DataError(f"{dataset.file}: the data file of dataset {name!r} does not exist")
        datasets.append(dataset)
    return datasets


def _file_rows(file: Path) -> list[dict[str, Any]]:
    data = file.read_bytes()
    try:
        if file.suffix == ".jsonl":
            rows = [msgspec.json.decode(line) for line in data.splitlines() if line.strip()]
        else:
            rows = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise DataError(f"{file}: not JSON ({error}); convert it again or repair it") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{file}: must hold a list of objects, one per conversation")
    return rows


def _hub_rows(entry: dict[str, Any]) -> Iterable[dict[str, Any]]:
    import datasets

    return datasets.load_dataset(  # type: ignore[return-value]  # split given: a Dataset
        entry["hf_hub_url"],
        entry.get("subset"),
        split=entry.get("split", "train"),
        revision=entry.get("revision"),
    )


def _canonical_names(row: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """Undo the renaming that `columns` and `tags` describe."""
    columns = entry.get("columns", {})
    tags = entry.get("tags", {})
    turns = row.get(columns.get("messages", "conversations"))
    if not isinstance(turns, list):
        raise DataError(
            f"column {columns.get('messages', 'conversations')!r} is missing or no list"
        )
    role_tag, content_tag = tags.get("role_tag", "from"), tags.get("content_tag", "value")
    names = {tags.get(tag, default): default for tag, default in _ROLES.items()}
    conversation = []
    for turn in turns:
        rest = {key: turn[key] for key in turn if key not in (role_tag, content_tag)}
        role = turn.get(role_tag)
        conversation.append({"from": names.get(role, role), "value": turn.get(content_tag), **rest})
    system = row.get(columns.get("system", "system"))
    if system and not (conversation and conversation[0]["from"] == "system"):
        conversation.insert(0, {"from": "system", "value": system})
    return {
        "conversations": conversation,
        "tools": row.get(columns.get("tools", "tools")) or "",
    }
