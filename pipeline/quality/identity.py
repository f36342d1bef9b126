"""Replaces what tells whose machine, which model and which day a trajectory comes from.

    /home/ann/app  ->  /home/user/app        "You are Claude Sonnet 4"   ->  "You are Assistant"
    ann@laptop     ->  user@laptop           "Today's date: 2025-11-03"  ->  "...: 2025-01-01"

Each kind is off unless asked for. Substitutes are fixed, and consistent within a trajectory: a
user's name learned from a home path, and a date that a prompt calls today's, are replaced wherever
they occur. Model names are replaced in system prompts only: elsewhere they may be the task.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from pipeline.quality.rewrite import rewrite
from pipeline.trajectory import Trajectory

_USER = "user"
_MODEL = "Assistant"
_MODEL_ID = "assistant-model"
_DATE = "2025-01-01"


@dataclass(frozen=True, slots=True)
class IdentityOptions:
    """`conversion.identity` of config.yaml."""

    model_names: bool = False
    user_names: bool = False
    home_paths: bool = False
    dates: bool = False

    @property
    def is_on(self) -> bool:
        return self.model_names or self.user_names or self.home_paths or self.dates


_HOME = re.compile(
    r"(?P<root>/home/|/Users/|[A-Za-z]:(?:\\{1,4}|/)Users(?:\\{1,4}|/))(?P<name>[\w.-]+)"
)
# Accounts of machines, not of people.
_MACHINE_USERS = frozenset(
    "user ubuntu root runner app node vscode admin nobody daemon jovyan public shared default "
    "agent openhands docker circleci codespace linuxbrew ec2-user git guest".split()
)
_MIN_NAME = 3

_NAME = re.compile(
    r"\b(?:Claude(?:[ -](?:Code|Opus|Sonnet|Haiku|Instant)\b)?(?:[ -]\d(?:\.\d)?\b)?"
    r"(?: (?:Opus|Sonnet|Haiku)(?: \d(?:\.\d)?)?)?|(?:Opus|Sonnet|Haiku) \d(?:\.\d)?"
    r"|ChatGPT|GPT-\d(?:\.\d)?\w?|Gemini(?: \d(?:\.\d)?)?(?: (?:Pro|Flash))?"
    r"|Qwen ?\d?(?:\.\d)?(?:-Coder)?|DeepSeek(?:-[A-Z]\d(?:\.\d)?)?"
    r"|Kimi(?: K\d)?|GLM-\d(?:\.\d)?)\b"
)
_ID = re.compile(
    r"\b(?:claude|gpt|gemini|qwen\d?|deepseek|kimi|glm|llama|mistral|grok)-[a-z0-9][a-z0-9.@:-]*\d[a-z0-9.]*"
    r"|\bo[134]-(?:mini|preview|pro)\b"
)
_TODAY = re.compile(
    r"(?i:today(?:'s date)?(?: is|:)|current date(?: is|:)?|date:)\s{0,3}(?P<date>\d{4}-\d\d-\d\d)"
)


def normalize_identity(trajectory: Trajectory, options: IdentityOptions) -> Trajectory:
    """The trajectory with the kinds of `options` replaced; `options.is_on`."""
    texts = list(_texts(trajectory))
    changes = []
    if options.dates:
        dates = {match["date"] for text in texts for match in _TODAY.finditer(text)}
        changes += _replace_words(dates, _DATE)
    if options.home_paths:
        changes.append(lambda text: _HOME.sub(_general_home, text))
    if options.user_names:
        names = {match["name"] for text in texts for match in _HOME.finditer(text)}
        people = {name for name in names if _is_person(name)}
        changes += _replace_words(people, _USER)
    changed = rewrite(trajectory, lambda text: _apply(text, changes)) if changes else trajectory
    return _without_models(changed) if options.model_names else changed


def _texts(trajectory: Trajectory) -> Iterable[str]:
    for message in trajectory.messages:
        yield message.content
        yield message.reasoning_content
        yield from (call.arguments for call in message.tool_calls)


def _apply(text: str, changes: list[Callable[[str], str]]) -> str:
    for change in changes:
        text = change(text)
    return text


def _replace_words(words: set[str], substitute: str) -> list[Callable[[str], str]]:
    if not words:
        return []
    longest_first = sorted(words, key=lambda word: (-len(word), word))
    pattern = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])")
    return [lambda text: pattern.sub(substitute, text)]


def _general_home(match: re.Match[str]) -> str:
    return match["root"] + (_USER if _is_person(match["name"]) else match["name"])


def _is_person(name: str) -> bool:
    return len(name) >= _MIN_NAME and name.lower() not in _MACHINE_USERS


def _without_models(trajectory: Trajectory) -> Trajectory:
    messages = [
        replace(message, content=_NAME.sub(_MODEL, _ID.sub(_MODEL_ID, message.content)))
        if message.role == "system"
        else message
        for message in trajectory.messages
    ]
    return Trajectory(messages, trajectory.tools, trajectory.provenance)
