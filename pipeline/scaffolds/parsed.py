"""What a parser returns: the conversations of one raw file, and those that cannot be used."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline.rejects import RejectReason
from pipeline.trajectory import Message


@dataclass(slots=True)
class Conversation:
    """One valid conversation: passed `validate.find_defect` and trains at least one turn."""

    chain_id: str
    messages: list[Message]
    tools: list[dict[str, Any]]
    model: str = ""
    generated_on: str = ""
    """YYYY-MM-DD from the log, "" if it has no time."""
    gen_params: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class ChainReject:
    """One conversation, or one line, that is not used."""

    reason: RejectReason
    message: str
    chain_id: str = ""
    line: int | None = None


@dataclass(slots=True)
class Parsed:
    """The result for one raw file."""

    conversations: list[Conversation] = field(default_factory=list)
    rejects: list[ChainReject] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """What was read without being a conversation of its own, such as failed_calls."""
