"""Why a trial or a conversation is not in the data: every one of them, with a reason code.

A `Reject` is one line of `<data>.rejected.jsonl`:

    {"trial": str, "trial_kept": bool, "chain": str, "source_file": str, "line": int | null,
     "reason": str, "kind": "filtered" | "defect", "message": str}

`trial_kept`: other conversations of the trial are in the data.

`filtered` was left out on purpose (by the config or because it is not an agent's work); `defect`
cannot be trained on, and too many defects stop the run.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipeline.jsonl import escape_surrogates


class RejectReason(StrEnum):
    """One word per cause, for counting. The groups below decide the kind."""

    # Left out on purpose.
    OTHER_STATUS = "other_status"
    NO_REWARD = "no_reward"
    EXCLUDED_REPO = "excluded_repo"
    NOT_SAMPLED = "not_sampled"
    WARMUP = "warmup"
    TITLE_CALL = "title_call"
    SIDE_CALL = "side_call"
    NOT_A_TRAJECTORY = "not_a_trajectory"
    SUMMARY_CALL = "summary_call"
    EXCEPTION = "exception"
    SUBAGENT = "subagent"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    TOOL_ERRORS = "tool_errors"
    LOW_SCORE = "low_score"
    WHERE = "where"
    DUPLICATE = "duplicate"
    OVER_CAP = "over_cap"
    EVAL_INSTANCE = "eval_instance"
    EVAL_OVERLAP = "eval_overlap"
    GIT_HISTORY = "git_history"
    SECRET_FOUND = "secret_found"
    UNPAIRED = "unpaired"
    # The raw file.
    MISSING_TRAJECTORY = "missing_trajectory"
    UNREADABLE_FILE = "unreadable_file"
    UNKNOWN_SCAFFOLD = "unknown_scaffold"
    BAD_JSON = "bad_json"
    BAD_RECORD = "bad_record"
    NO_CALLS = "no_calls"
    # The conversation.
    FIRST_TURN_NOT_USER = "first_turn_not_user"
    CONSECUTIVE_ASSISTANTS = "consecutive_assistants"
    SYSTEM_IN_MIDDLE = "system_in_middle"
    EMPTY_ASSISTANT = "empty_assistant"
    UNANSWERED_TOOL_CALL = "unanswered_tool_call"
    ORPHAN_TOOL_RESULT = "orphan_tool_result"
    BAD_ARGUMENTS = "bad_arguments"
    BAD_TOOLS = "bad_tools"
    UNSUPPORTED_CONTENT = "unsupported_content"
    STRUCTURAL_TOKEN = "structural_token"
    LONE_SURROGATE = "lone_surrogate"
    CONTEXT_SUMMARIZATION = "context_summarization"
    NOTHING_TO_TRAIN = "nothing_to_train"
    NOT_RENDERED = "not_rendered"

    @property
    def is_defect(self) -> bool:
        return self not in _FILTERED


_FILTERED = frozenset(
    {
        RejectReason.OTHER_STATUS,
        RejectReason.NO_REWARD,
        RejectReason.EXCLUDED_REPO,
        RejectReason.NOT_SAMPLED,
        RejectReason.WARMUP,
        RejectReason.TITLE_CALL,
        RejectReason.SIDE_CALL,
        RejectReason.NOT_A_TRAJECTORY,
        RejectReason.SUMMARY_CALL,
        RejectReason.EXCEPTION,
        RejectReason.SUBAGENT,
        RejectReason.TOO_SHORT,
        RejectReason.TOO_LONG,
        RejectReason.TOOL_ERRORS,
        RejectReason.LOW_SCORE,
        RejectReason.WHERE,
        RejectReason.DUPLICATE,
        RejectReason.OVER_CAP,
        RejectReason.EVAL_INSTANCE,
        RejectReason.EVAL_OVERLAP,
        RejectReason.GIT_HISTORY,
        RejectReason.SECRET_FOUND,
        RejectReason.UNPAIRED,
    }
)


@dataclass(frozen=True, slots=True)
class Defect:
    """What is wrong with one conversation, and where in it."""

    reason: RejectReason
    message: str


@dataclass(frozen=True, slots=True)
class Reject:
    """One trial (`chain` is "") or one conversation that was not kept."""

    trial: str
    reason: RejectReason
    message: str
    source_file: str = ""
    """Relative to the job directory."""
    chain: str = ""
    line: int | None = None
    """1-based line of the raw file, when it has lines."""

    def __post_init__(self) -> None:
        # They repeat what stands in logs and on disks, which need not be valid Unicode.
        for name in ("trial", "message", "source_file", "chain"):
            object.__setattr__(self, name, escape_surrogates(getattr(self, name)))

    def to_record(self, *, trial_kept: bool) -> dict[str, Any]:
        return {
            "trial": self.trial,
            "trial_kept": trial_kept,
            "chain": self.chain,
            "source_file": self.source_file,
            "line": self.line,
            "reason": self.reason.value,
            "kind": "defect" if self.reason.is_defect else "filtered",
            "message": self.message,
        }
