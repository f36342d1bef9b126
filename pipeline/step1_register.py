"""STEP 1: an entry for the data file in `dataset_info.json`, where LLaMA-Factory looks it up.

    {"<name>": {"file_name", "formatting": "sharegpt", "columns": {...}, "tags": {...}}}
    {"<name>": {"file_name", "formatting": "alpaca", "columns": {"prompt": "text"}}}    texts
    {"<name>": {..., "ranking": true, "columns": {..., "chosen", "rejected"}}}          pairs

The file is shared: other entries keep their place and content, a lock keeps two runs from losing
each other's entry, and a file that is not what it should be is left alone.
"""

import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.errors import RegistrationError
from pipeline.files import write_text
from pipeline.sharegpt import LfFormat
from pipeline.step_report import StepReport

INFO_FILE = "dataset_info.json"

# All tags are spelt out: LLaMA-Factory resets those that a partial `tags` does not name.
_STRUCTURED: dict[str, Any] = {
    "formatting": "sharegpt",
    "columns": {"messages": "conversations", "tools": "tools"},
    "tags": {
        "role_tag": "from",
        "content_tag": "value",
        "user_tag": "human",
        "assistant_tag": "gpt",
        "observation_tag": "observation",
        "function_tag": "function_call",
        "system_tag": "system",
    },
}
_PLAIN = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages"},
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "observation_tag": "observation",
        "function_tag": "function_call",
        "system_tag": "system",
    },
}
_PAIRS = {
    **_STRUCTURED,
    "ranking": True,
    "columns": {**_STRUCTURED["columns"], "chosen": "chosen", "rejected": "rejected"},
}
_TEXT = {"formatting": "alpaca", "columns": {"prompt": "text"}}
_SHAPES: dict[LfFormat, dict[str, Any]] = {
    "structured": _STRUCTURED,
    "rendered": _PLAIN,
    "text": _TEXT,
    "pairs": _PAIRS,
}


def register(dataset_dir: Path, name: str, lf_file: Path, lf_format: LfFormat) -> StepReport:
    """Make `name` stand for `lf_file` in `<dataset_dir>/dataset_info.json`.

    An entry that is already right is not written again.

    Raises: RegistrationError: the file exists and is not a JSON object; names line and column.
    """
    info_file = dataset_dir / INFO_FILE
    entry = dataset_entry(dataset_dir, lf_file, lf_format)
    outputs = {"dataset_info": info_file}
    dataset_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(dataset_dir / f".{INFO_FILE}.lock"):
        info = read_info(info_file)
        if info.get(name) == entry:
            summary = f"dataset {name} is registered"
            return StepReport(1, summary, True, "the entry is unchanged", outputs=outputs)
        verb = "updated" if name in info else "registered"
        info[name] = entry
        write_text(info_file, json.dumps(info, ensure_ascii=False, indent=2) + "\n")
    return StepReport(1, f"dataset {name} {verb}", counts={"datasets": len(info)}, outputs=outputs)


def dataset_entry(dataset_dir: Path, lf_file: Path, lf_format: LfFormat) -> dict[str, Any]:
    """The entry for a file: by its name alone if it lies in `dataset_dir`, else absolute."""
    inside = lf_file.resolve().is_relative_to(dataset_dir.resolve())
    target = lf_file.resolve().relative_to(dataset_dir.resolve()) if inside else lf_file.resolve()
    return {"file_name": target.as_posix(), **_SHAPES[lf_format]}


def read_info(info_file: Path) -> dict[str, Any]:
    """The registered datasets, {} if there is no file yet. Raises: RegistrationError."""
    way_out = "repair it, or move it away and register the datasets again"
    try:
        info = json.loads(info_file.read_bytes())
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise RegistrationError(
            f"{info_file}:{error.lineno}:{error.colno}: not JSON ({error.msg}); {way_out}"
        ) from None
    except UnicodeDecodeError as error:
        raise RegistrationError(f"{info_file}: not UTF-8 ({error.reason}); {way_out}") from None
    if not isinstance(info, dict):
        raise RegistrationError(
            f"{info_file}: not a JSON object (got {type(info).__name__}); {way_out}"
        )
    return info
