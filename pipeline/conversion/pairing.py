"""Which attempts at a task make preference pairs: a resolved one and one that failed.

Two conversations can be a pair if they begin with the same prompt and tools. Of each task, the best
of the resolved and the worst of the others come first, by reward, then score, and those of a side
take turns. What is in no pair has a reason.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from pipeline.conversion.filters import merit
from pipeline.errors import DataError
from pipeline.preference_pairs import Continuation, make_pair
from pipeline.rejects import Defect, RejectReason

Example = Mapping[str, Any]
"""Of LLaMA-Factory's JSON, as `sharegpt.to_sharegpt` makes them."""


class Conversation(Protocol):
    """What is asked of one that was converted."""

    @property
    def facts(self) -> dict[str, Any]: ...

    @property
    def prompt_key(self) -> bytes: ...


_Row = TypeVar("_Row", bound=Conversation)


@dataclass(frozen=True, slots=True)
class PairRules:
    """`conversion.pairs` of config.yaml."""

    continuation: Continuation = "trajectory"
    max_per_instance: int = 4
    """0: every combination."""


@dataclass(slots=True)
class Pairing(Generic[_Row]):
    """All conversations, in pairs or not."""

    pairs: list[tuple[_Row, _Row]] = field(default_factory=list)
    """Chosen and rejected, in the order of the chosen ones."""
    unpaired: list[tuple[_Row, Defect]] = field(default_factory=list)


def pair_up(
    rows: Sequence[_Row], rules: PairRules, resolved_at: float, read: Callable[[_Row], Example]
) -> Pairing[_Row]:
    """Pairs among `rows`, the same for the same rows in the same order.

    Args:
        resolved_at: with at least this reward a conversation can be chosen, with less rejected.
        read: the example of a row.
    """
    reasons: dict[int, Defect] = {}
    groups: dict[tuple[str, bytes], list[int]] = {}
    for place, row in enumerate(rows):
        if defect := _no_attempt(row.facts):
            reasons[place] = defect
        else:
            groups.setdefault((row.facts["instance_id"], row.prompt_key), []).append(place)
    found: list[tuple[int, int]] = []
    counts: Counter[str] = Counter()

    def find_defect(one: int, other: int, instance_id: str) -> Defect | None:
        if 0 < rules.max_per_instance <= counts[instance_id]:
            what = f"{rules.max_per_instance} pairs of {instance_id} are made without it"
            message = f"{what} (conversion.pairs.max_per_instance)"
            return Defect(RejectReason.OVER_CAP, message)
        try:
            make_pair(read(rows[one]), read(rows[other]), rules.continuation)
        except DataError as error:
            names = f"{_name(rows[one])} and {_name(rows[other])}"
            return Defect(RejectReason.UNPAIRED, f"{names}: {error}")
        return None

    for (instance_id, _), places in groups.items():
        chosen, rejected = _ranked(places, rows, resolved_at)
        if not (chosen and rejected):
            reasons |= dict.fromkeys(places, _without_partner(instance_id, has_chosen=bool(chosen)))
        for one, other in _combinations(chosen, rejected):
            if defect := find_defect(one, other, instance_id):
                reasons = {one: defect, other: defect} | reasons
                continue
            counts[instance_id] += 1
            found.append((one, other))
    paired = {place for pair in found for place in pair}
    return Pairing(
        pairs=[(rows[one], rows[other]) for one, other in sorted(found)],
        unpaired=[(rows[place], reasons[place]) for place in sorted(reasons.keys() - paired)],
    )


def _no_attempt(facts: Mapping[str, Any]) -> Defect | None:
    if facts["agent_type"] == "subagent":
        message = "a subagent's conversation, of which the reward says nothing"
        return Defect(RejectReason.UNPAIRED, message)
    if facts["segment"]:
        message = "goes on after a break in the history; no other attempt has its prompt"
        return Defect(RejectReason.UNPAIRED, message)
    if facts["reward"] is None:
        return Defect(RejectReason.NO_REWARD, "no reward, so it is not known which side it is")
    return None


def _ranked(
    places: list[int], rows: Sequence[Conversation], resolved_at: float
) -> tuple[list[int], list[int]]:
    """The resolved ones, best first, and the others, worst first."""
    best_first = sorted(places, key=lambda place: merit(rows[place].facts), reverse=True)
    is_resolved = [rows[place].facts["reward"] >= resolved_at for place in best_first]
    chosen = [place for place, resolved in zip(best_first, is_resolved, strict=True) if resolved]
    return chosen, [place for place in reversed(best_first) if place not in chosen]


def _without_partner(instance_id: str, *, has_chosen: bool) -> Defect:
    missing = "failed" if has_chosen else "resolved"
    message = f"no {missing} attempt at {instance_id} begins with the same prompt and tools"
    return Defect(RejectReason.UNPAIRED, message)


def _combinations(chosen: list[int], rejected: list[int]) -> Iterator[tuple[int, int]]:
    """All of them; at any time, those of a side have been used equally often, or once more."""
    num_chosen, num_rejected = len(chosen), len(rejected)
    for number in range(num_chosen * num_rejected):
        shift = number // math.lcm(num_chosen, num_rejected)
        yield chosen[number % num_chosen], rejected[(number + shift) % num_rejected]


def _name(row: Conversation) -> str:
    return f"{row.facts['trial_id']} {row.facts['chain_id']}"
