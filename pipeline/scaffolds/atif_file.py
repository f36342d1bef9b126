"""ATIF files (Harbor's trajectory.json, v1.0-1.7) -> the context windows in them.

    {"schema_version": "ATIF-v1.5", "agent": {"name", "model_name", "tool_definitions"?},
     "steps": [...], "continued_trajectory_ref"?: "trajectory.cont-1.json",
     "subagent_trajectories"?: [{"trajectory_id", "agent", "steps", ...}]}

Also read: the same under `trajectory`, a list of them (bare or under `data`), and JSON lines that
start with a header (*.atif.jsonl). A window is what the model could see at a time: each file is
one at least, and a replaced context starts the next.

Source: Harbor RFC 0001, https://github.com/laude-institute/harbor docs/rfcs.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pipeline.rejects import RejectReason
from pipeline.scaffolds.assembly import (
    UnusableError,
    date_of,
    list_of,
    object_of,
    read_json,
    refuse,
    string_of,
)
from pipeline.scaffolds.parsed import Conversation, Parsed, RawFiles
from pipeline.scaffolds.peek import first_objects
from pipeline.trajectory import Message

BESIDE = ("{stem}.cont-*.json", "{stem}.summarization-*.json", "{stem}.subagent-*.json")
"""Files that belong to a trajectory: its next windows, and the agents it called."""

_CONTINUATION = re.compile(r"cont-(\d+)")
_VERSION = re.compile(r"(?:ATIF-)?v?1\.\d+", re.IGNORECASE)


@dataclass(slots=True)
class Document:
    """One trajectory: the work of one agent, as one file or one part of a file holds it."""

    chain_id: str
    """"" for the main agent; the name of a subagent."""
    header: dict[str, Any]
    """All keys but the steps."""
    steps: list[dict[str, Any]]

    @property
    def agent_name(self) -> str:
        return string_of(object_of(self.header.get("agent")).get("name"))


def read_documents(files: RawFiles, parsed: Parsed) -> list[Document]:
    """All trajectories of a unit: the main file, its continuations in order, then subagents.

    A file that cannot be read is in `parsed.rejects`.
    """
    found = _read_file(files, files.main, "", parsed)
    stem = PurePosixPath(files.main).stem
    suffixes = {
        name: PurePosixPath(name).stem.removeprefix(f"{stem}.")
        for name in files.names
        if name != files.main and PurePosixPath(name).stem.startswith(f"{stem}.")
    }
    for name in sorted(suffixes, key=lambda name: _order(suffixes[name])):
        is_window = _CONTINUATION.fullmatch(suffixes[name])
        found += _read_file(files, name, "" if is_window else suffixes[name], parsed)
    reference = string_of(found[0].header.get("continued_trajectory_ref")) if found else ""
    if reference and not any(_CONTINUATION.fullmatch(suffix) for suffix in suffixes.values()):
        parsed.counts["missing_continuations"] += 1
    return found


def _order(suffix: str) -> tuple[int, int, str]:
    continuation = _CONTINUATION.fullmatch(suffix)
    return (0, int(continuation[1]), "") if continuation else (1, 0, suffix)


def _read_file(files: RawFiles, name: str, chain_id: str, parsed: Parsed) -> list[Document]:
    where = "" if name == files.main else PurePosixPath(name).name
    try:
        return [
            document
            for value in _values(files.read(name), where)
            for document in _documents(value, chain_id, where)
        ]
    except UnusableError as error:
        refuse(parsed, error.defect, chain_id)
        return []


def _values(data: bytes, where: str) -> list[Any]:
    """The trajectories in a file, not yet checked."""
    try:
        value = read_json(data, where)
    except UnusableError:
        value = _from_lines(data, where)
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    return value if isinstance(value, list) and value else [value]


def _from_lines(data: bytes, where: str) -> dict[str, Any]:
    """A header line, then a step a line. Raises: UnusableError."""
    header: dict[str, Any] = {}
    steps: list[Any] = []
    for line in data.splitlines():
        value = object_of(read_json(line, where)) if line.strip() else {}
        if "source" in value:
            steps.append(value)
        else:
            header |= object_of(value.get("__header__")) or value
    return header | {"steps": steps}


def _documents(value: Any, chain_id: str, where: str) -> Iterator[Document]:
    """One trajectory and the subagents inside it. Raises: UnusableError."""
    value = object_of(value)
    header = object_of(value.get("trajectory")) or value
    steps = header.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        message = f"{where}: " if where else ""
        message += "steps: not a list of objects; expected an ATIF trajectory"
        raise UnusableError(RejectReason.BAD_RECORD, message)
    yield Document(chain_id, {k: v for k, v in header.items() if k != "steps"}, steps)
    for number, subagent in enumerate(list_of(header.get("subagent_trajectories"))):
        identity = string_of(object_of(subagent).get("trajectory_id")) or f"{number}"
        yield from _documents(subagent, f"subagent-{identity}", where)


def windows_of(steps: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Steps split where the context was replaced (`context_management`, v1.7).

    A later window starts from what replaced the context, shown as a user step, behind the system
    prompt of the first.
    """
    system: list[dict[str, Any]] = []
    for step in steps:
        if step.get("source") != "system":
            break
        system.append(step)
    windows: list[list[dict[str, Any]]] = [[]]
    for step in steps:
        management = object_of(
            step.get("context_management") or object_of(step.get("extra")).get("context_management")
        )
        if management.get("boundary") == "replace":
            content = step.get("message") or management.get("content") or management.get("summary")
            windows.append([*system, {"source": "user", "message": content}])
        elif not management:  # other management left no text in the prompt
            windows[-1].append(step)
    return windows


def conversation_of(
    document: Document,
    chain_id: str,
    steps: list[dict[str, Any]],
    messages: list[Message],
    tools: list[dict[str, Any]],
) -> Conversation:
    """Messages with what the file says about them; `steps` are those of the window."""
    agent = object_of(document.header.get("agent"))
    extra = object_of(agent.get("extra"))
    models = [step.get("model_name") for step in steps if step.get("source") == "agent"]
    times = [step["timestamp"] for step in steps if step.get("timestamp")]
    named = agent.get("model_name") or next((model for model in models if model), "")
    return Conversation(
        chain_id=chain_id,
        messages=messages,
        tools=tools,
        model=string_of(named),
        generated_on=date_of(times[-1]) if times else "",
        gen_params={key: extra[key] for key in ("temperature",) if key in extra},
        usage=object_of(document.header.get("final_metrics")),
    )


def recognises(head: bytes, name: str) -> bool:
    """Whether the beginning of a file is that of an ATIF trajectory of any agent."""
    first = next(iter(first_objects(head)), {})
    for key in ("trajectory", "__header__"):
        first = object_of(first.get(key)) or first
    items = list_of(first.get("data"))
    first = object_of(items[0]) if items else first
    if isinstance(first.get("schema_version"), str) and _VERSION.fullmatch(first["schema_version"]):
        return "agent" in first or "steps" in first or name.endswith(".atif.jsonl")
    steps = list_of(first.get("steps"))
    return bool(steps) and object_of(steps[0]).get("source") in ("system", "user", "agent")
