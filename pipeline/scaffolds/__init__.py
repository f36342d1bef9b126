"""Raw formats: one module per scaffold, each a pure parser; SCAFFOLDS maps the name to it.

A new scaffold = one module with `parse` + one golden triple under tests/data + one line here.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipeline.scaffolds import claude_code, open_code, openhands_sdk, proxy_log, terminus2
from pipeline.scaffolds.parsed import Parsed

PROXY_LOG = "litellm-trajectory.jsonl"
ATIF = "trajectory.json"
_NUM_CALLS_TO_DETECT = 8


@dataclass(frozen=True)
class Scaffold:
    """How the trajectories of one agent are found and read."""

    file_name: str
    """Inside <trial>/agent/."""
    parse: Callable[[Iterable[bytes], Sequence[str]], Parsed]
    """(lines of the file, names of the other files beside it) -> conversations."""
    agent_name: str
    """Part of the agent's name in trial configs, letters and digits only."""
    wrote: Callable[[str, list[str]], bool] | None = None
    """Whether a call with this system prompt and these tools is this agent's."""


SCAFFOLDS: dict[str, Scaffold] = {
    "claude-code": Scaffold(PROXY_LOG, claude_code.parse, "claudecode", claude_code.wrote),
    "open-code": Scaffold(PROXY_LOG, open_code.parse, "opencode", open_code.wrote),
    "openhands-sdk": Scaffold(PROXY_LOG, openhands_sdk.parse, "openhands", openhands_sdk.wrote),
    "terminus2": Scaffold(ATIF, terminus2.parse, "terminus2", None),
}


def detect(
    agent_name: str, file_names: Sequence[str], read: Callable[[str], Iterable[bytes]]
) -> str | None:
    """The scaffold of one trial, or None.

    By the agent's name in the trial config if its file is there, else by the prompt and tools of
    the first calls in the log, else by the agent that trajectory.json names. `read` yields the
    lines of a file.
    """
    plain = "".join(character for character in agent_name.lower() if character.isalnum())
    for name, scaffold in SCAFFOLDS.items():
        if scaffold.agent_name in plain and scaffold.file_name in file_names:
            return name
    if PROXY_LOG in file_names:
        for system, tools in proxy_log.first_calls(read(PROXY_LOG), _NUM_CALLS_TO_DETECT):
            for name, scaffold in SCAFFOLDS.items():
                if scaffold.wrote and scaffold.wrote(system, tools):
                    return name
    if ATIF in file_names and terminus2.wrote(b"".join(read(ATIF))):
        return "terminus2"
    return None
