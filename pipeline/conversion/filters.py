"""Which conversations stay, of those that were converted.

Nothing here needs a trajectory: it was reduced to its facts when it was converted, so other limits
do not mean another conversion. Limits look at one conversation; duplicates and caps at all of them,
in the order of the trials.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.conversion.parts import Part, PartRow
from pipeline.conversion.selection import InstanceStatus, SelectionRules, find_status_defect
from pipeline.quality.duplicates import DuplicateFinder
from pipeline.quality.where import Where
from pipeline.rejects import Defect, Reject, RejectReason

Chains = Literal["all", "main"]
KeepDuplicate = Literal["first", "best"]


@dataclass(frozen=True, slots=True)
class Limits:
    """`conversion` of config.yaml, as far as it concerns single conversations. None: no limit."""

    chains: Chains = "all"
    min_score: float | None = None
    min_turns: int = 0
    """Assistant turns."""
    max_turns: int | None = None
    max_tokens: int | None = None
    max_tool_error_share: float | None = None
    where: Where | None = None

    def find_defect(self, facts: dict[str, Any]) -> Defect | None:
        """Why a conversation with these facts does not stay."""
        if self.chains == "main" and facts["agent_type"] == "subagent":
            message = "a subagent's conversation, conversion.chains is main"
            return Defect(RejectReason.SUBAGENT, message)
        turns, score = facts["turns"], facts["score"]
        if turns < self.min_turns:
            message = f"{turns} turns, conversion.min_turns is {self.min_turns}"
            return Defect(RejectReason.TOO_SHORT, message)
        if self.max_turns is not None and turns > self.max_turns:
            message = f"{turns} turns, conversion.max_turns is {self.max_turns}"
            return Defect(RejectReason.TOO_LONG, message)
        tokens = facts["tokens"]
        if self.max_tokens is not None and tokens is not None and tokens > self.max_tokens:
            message = f"{tokens:,} tokens, conversion.max_tokens is {self.max_tokens:,}"
            return Defect(RejectReason.TOO_LONG, message)
        limit, share = self.max_tool_error_share, facts["tool_error_share"]
        if limit is not None and share is not None and share > limit:
            message = f"tool errors {share:.2f}, conversion.max_tool_error_share is {limit:g}"
            return Defect(RejectReason.TOOL_ERRORS, message)
        if self.min_score is not None and score is not None and score < self.min_score:
            message = f"rule score {score:g}, conversion.min_score is {self.min_score:g}"
            return Defect(RejectReason.LOW_SCORE, message)
        if self.where and not self.where.matches(facts):
            return Defect(RejectReason.WHERE, f"conversion.where is not true: {self.where.text}")
        return None


@dataclass(frozen=True, slots=True)
class Duplicates:
    """`conversion.duplicates` of config.yaml."""

    drop_exact: bool = False
    near_threshold: float | None = None
    """Similarity, 0 to 1, from which two conversations are duplicates. None: only equal ones."""
    keep: KeepDuplicate = "first"
    """Of duplicates: the first trial's, or the one with the highest reward, then score."""

    @property
    def are_dropped(self) -> bool:
        return self.drop_exact or self.near_threshold is not None


@dataclass(frozen=True, slots=True)
class Caps:
    """`conversion` of config.yaml: how many trials of one kind stay. 0: all."""

    max_per_instance: int = 0
    max_per_repository: int = 0


@dataclass(frozen=True, slots=True)
class Filters:
    """All of them, in the order in which they are applied."""

    limits: Limits = Limits()
    duplicates: Duplicates = Duplicates()
    caps: Caps = Caps()


@dataclass(slots=True)
class Choice:
    """What stays of one trial: the rows, and a reject for each of the others."""

    part: Part
    rejects: list[Reject] = field(default_factory=list)
    _dropped: set[int] = field(default_factory=set)
    """`id` of each row that does not stay: a file may hold very many."""

    @property
    def kept(self) -> list[PartRow]:
        return [row for row in self.part.rows if id(row) not in self._dropped]

    def drop(self, row: PartRow, defect: Defect) -> None:
        self._dropped.add(id(row))
        self.rejects.append(
            Reject(self.part.trial, defect.reason, defect.message, self.part.source_file, row.chain)
        )


def choose(
    parts: Sequence[Part], rules: SelectionRules, filters: Filters
) -> tuple[list[Choice], list[str]]:
    """Apply the filters, and the rules of selection to rewards that only the raw files know.

    Returns: one choice for each part, in the same order; what a user should know.
    """
    choices = [Choice(part) for part in parts]
    _select_by_status(choices, rules)
    for choice, row in _rows(choices):
        if defect := filters.limits.find_defect(row.facts):
            choice.drop(row, defect)
    notes = _look_for_duplicates(choices, filters.duplicates)
    _apply_cap(choices, "instance_id", filters.caps.max_per_instance)
    _apply_cap(choices, "repository", filters.caps.max_per_repository)
    return choices, notes


def _select_by_status(choices: Sequence[Choice], rules: SelectionRules) -> None:
    labelled = {row.facts["source"] for _, row in _rows(choices) if row.facts["reward"] is not None}
    for choice, row in _rows(choices):
        defect = find_status_defect(row.facts["reward"], rules.instance_status, rules.resolved_at)
        if defect and row.facts["source"] in labelled:
            choice.drop(row, defect)


def unlabelled_notes(
    sources: Sequence[str], rows: Iterable[dict[str, Any]], status: InstanceStatus
) -> list[str]:
    """Of `Selection.unlabelled`, those whose files know no reward either, given all facts."""
    labelled = {facts["source"] for facts in rows if facts["reward"] is not None}
    return [
        f"{name + ': ' if name else ''}no trial has a reward: instance_status {status} is ignored, "
        "all are taken"
        for name in sources
        if name not in labelled
    ]


def _rows(choices: Sequence[Choice]) -> Iterator[tuple[Choice, PartRow]]:
    return ((choice, row) for choice in choices for row in choice.kept)


def merit(facts: dict[str, Any]) -> tuple[float, float]:
    """What makes one conversation better than another: reward, then score."""
    reward, score = facts["reward"], facts["score"]
    return (-1.0 if reward is None else reward, -1.0 if score is None else score)


def _look_for_duplicates(choices: Sequence[Choice], rules: Duplicates) -> list[str]:
    rows = list(_rows(choices))
    if rules.keep == "best":
        rows.sort(key=lambda item: merit(item[1].facts), reverse=True)
    finder = DuplicateFinder(rules.near_threshold or 1.0)
    num_kept = 0
    for choice, row in rows:
        signature = b"" if rules.near_threshold is None else row.signature
        name = f"{choice.part.trial} {row.chain}"
        earlier = finder.add(row.exact_key, signature, name)
        if earlier and rules.are_dropped:
            choice.drop(row, Defect(RejectReason.DUPLICATE, f"says the same as {earlier}"))
        num_kept += bool(earlier)
    if not num_kept or rules.are_dropped:
        return []
    return [
        f"{num_kept:,} conversations say the same as others and are kept; "
        "conversion.duplicates.drop_exact leaves them out"
    ]


def _apply_cap(choices: Sequence[Choice], fact: str, cap: int) -> None:
    """At most `cap` trials with the same value of `fact`, the best ones; "" is no value."""
    if not cap:
        return
    best_first = sorted(
        (choice for choice in choices if choice.kept),
        key=lambda choice: max(merit(row.facts) for row in choice.kept),
        reverse=True,
    )
    counts: Counter[str] = Counter()
    for choice in best_first:
        value = choice.kept[0].facts[fact]
        counts[value] += bool(value)
        if counts[value] > cap:
            message = f"{cap} better trials of {value} are kept (conversion.max_per_{fact})"
            for row in choice.kept:
                choice.drop(row, Defect(RejectReason.OVER_CAP, message))
