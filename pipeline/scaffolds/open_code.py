"""OpenCode behind a logging proxy: OpenAI-style history, several system prompts, a title call."""

from collections.abc import Iterable, Sequence

from pipeline.scaffolds import proxy_log
from pipeline.scaffolds.parsed import Parsed

_CLIENT = proxy_log.Client(title_marks=("title generator",))


def parse(lines: Iterable[bytes], siblings: Sequence[str]) -> Parsed:
    """litellm-trajectory.jsonl -> conversations."""
    return proxy_log.parse(lines, _CLIENT)


def wrote(system: str, tool_names: list[str]) -> bool:
    return "opencode" in system[:500].lower()
