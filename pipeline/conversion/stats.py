"""The numbers beside a data file: `<data>.stats.json`.

    {"count", "token_lens": {"max", "min", "mean", "gt_128k"}, "total_tokens",
     "n_turns": {"max", "min", "mean", "gte_100"}, "tool_call_errors": {..., "by_scaffold": {...}},
     "trials": {"read", "kept", "rejected"}, "pairs": n, "rejected": {reason: n}, "log": {what: n},
     "secrets": {file: {type: n}}}

The first five are those of the reference format, tokens only if they were counted; means are cut to
integers and rates rounded to 6 digits as there. `pairs` only if they were asked for. Tool errors
are those of `quality.facts`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.conversion.filters import Choice
from pipeline.quality.secrets.scrub import SecretPolicy
from pipeline.rejects import Reject

_MANY_TURNS = 100
_MANY_TOKENS = 128 * 1024


@dataclass(slots=True)
class Tally:
    """Counts over all trials of a run."""

    num_read: int = 0
    num_kept: int = 0
    rejected_trials: Counter[str] = field(default_factory=Counter)
    """Trials without any conversation, by the reason that stands for each."""
    num_defective: int = 0
    """Those of them that were to be converted and could not be."""
    rejects: list[Reject] = field(default_factory=list)
    conversations: list[dict[str, Any]] = field(default_factory=list)
    """The facts of each that is kept; see `quality.facts`."""
    num_pairs: int | None = None
    """That these conversations make. None: the examples are no pairs."""
    log_counts: Counter[str] = field(default_factory=Counter)
    secrets: dict[str, Counter[str]] = field(default_factory=dict)
    """Secrets by file and type."""
    hashes: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the raw files that were read whole, by name relative to the source."""
    notes: list[str] = field(default_factory=list)
    """What a user should know."""

    def add_unselected(self, rejects: list[Reject]) -> None:
        """Trials that were not to be converted."""
        self.num_read += len(rejects)
        self.rejects += rejects
        self.rejected_trials.update(reject.reason.value for reject in rejects)

    def add(self, choice: Choice) -> None:
        """A trial that was to be converted."""
        part = choice.part
        rejects = [*part.rejects, *choice.rejects]
        self.num_read += 1
        self.rejects += rejects
        self.conversations += [row.facts for row in choice.kept]
        self.log_counts.update(part.counts)
        if part.secrets:
            self.secrets.setdefault(part.source_file, Counter()).update(part.secrets)
        self.hashes.update(part.hashes)
        if choice.kept:
            self.num_kept += 1
            return
        # What could have been kept says most about the trial; a defect more than a side call does.
        defects = [reject for reject in part.rejects if reject.reason.is_defect]
        self.rejected_trials[(choice.rejects or defects or rejects)[0].reason.value] += 1
        self.num_defective += bool(defects) and not choice.rejects

    @property
    def num_rejected(self) -> int:
        return self.rejected_trials.total()

    def top_reasons(self) -> str:
        """`3 side_call, 1 bad_json`: rejected trials, most frequent reason first."""
        counts = sorted(self.rejected_trials.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{count:,} {reason}" for reason, count in counts)

    def counts(self) -> dict[str, int]:
        """The totals that a step reports."""
        return {
            "read": self.num_read,
            "kept": self.num_kept,
            "rejected": self.num_rejected,
            "conversations": len(self.conversations),
            **self._pairs(),
        }

    def _pairs(self) -> dict[str, int]:
        return {} if self.num_pairs is None else {"pairs": self.num_pairs}

    def summary(self) -> dict[str, Any]:
        """What `sft convert --json` prints, without the time it took."""
        return {
            "read": self.num_read,
            "kept": self.num_kept,
            "rejected": dict(sorted(self.rejected_trials.items())),
            "chains": len(self.conversations),
            **self._pairs(),
        }

    def line(self) -> str:
        """What was read, kept and rejected, for people."""
        return summary_line(self.counts(), self.top_reasons())

    def unread_notes(self) -> list[str]:
        """About trials with more than one trajectory; empty if there are none."""
        count = self.log_counts["unread_trajectories"]
        if not count:
            return []
        return [
            f"{count:,} files are named like trajectories beside one that was read, and were not; "
            "name them as sources to have them"
        ]

    def secret_notes(self, policy: SecretPolicy) -> list[str]:
        """What was done about secrets, for people; empty if there were none."""
        types = sum(self.secrets.values(), Counter())
        if not types:
            return []
        done = {
            "redact": "replaced by placeholders",
            "reject": "found, and the trajectories that hold them rejected",
            "keep": "found and kept; conversion.secrets.policy redact replaces them",
        }
        named = ", ".join(f"{count:,} {kind}" for kind, count in sorted(types.items()))
        return [
            f"{types.total():,} secrets in {len(self.secrets):,} files {done[policy]} ({named})"
        ]

    def record(self) -> dict[str, Any]:
        """The content of stats.json."""
        turns = [item["turns"] for item in self.conversations]
        return {
            "count": len(turns),
            **_token_counts([item["tokens"] for item in self.conversations]),
            "n_turns": {
                "max": max(turns, default=0),
                "min": min(turns, default=0),
                "mean": sum(turns) // max(len(turns), 1),
                "gte_100": sum(number >= _MANY_TURNS for number in turns),
            },
            "tool_call_errors": _tool_errors(self.conversations)
            | {
                "by_scaffold": {
                    scaffold: _tool_errors(
                        [c for c in self.conversations if c["scaffold"] == scaffold]
                    )
                    for scaffold in sorted({item["scaffold"] for item in self.conversations})
                }
            },
            "trials": {
                "read": self.num_read,
                "kept": self.num_kept,
                "rejected": self.num_rejected,
            },
            **self._pairs(),
            "rejected": dict(sorted(Counter(r.reason.value for r in self.rejects).items())),
            "log": dict(sorted(self.log_counts.items())),
            "secrets": {name: dict(sorted(n.items())) for name, n in sorted(self.secrets.items())},
        }


def _token_counts(counts: list[int | None]) -> dict[str, Any]:
    known = [count for count in counts if count is not None]
    if not known:
        return {}
    return {
        "token_lens": {
            "max": max(known),
            "min": min(known),
            "mean": sum(known) // len(known),
            "gt_128k": sum(count > _MANY_TOKENS for count in known),
        },
        "total_tokens": sum(known),
    }


def _tool_errors(conversations: list[dict[str, Any]]) -> dict[str, Any]:
    num_calls = sum(item["tool_calls"] for item in conversations)
    num_errors = sum(item["tool_errors"] for item in conversations)
    with_calls = sum(item["tool_calls"] > 0 for item in conversations)
    with_errors = sum(item["tool_errors"] > 0 for item in conversations)
    return {
        "total_tool_calls": num_calls,
        "error_tool_calls": num_errors,
        "error_rate": round(num_errors / max(num_calls, 1), 6),
        "trajectories_with_tool_calls": with_calls,
        "trajectories_with_error": with_errors,
        "trajectory_error_rate": round(with_errors / max(with_calls, 1), 6),
    }


def summary_line(counts: Mapping[str, int], reasons: str) -> str:
    """`counts` as `Tally.counts` gives them."""
    rejected = f"{counts['rejected']:,} rejected" + (f" ({reasons})" if reasons else "")
    pairs = f" in {counts['pairs']:,} pairs" if "pairs" in counts else ""
    return (
        f"{counts['read']:,} trials read, {counts['kept']:,} kept as "
        f"{counts['conversations']:,} conversations{pairs}, {rejected}"
    )
