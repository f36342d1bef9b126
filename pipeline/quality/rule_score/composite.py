"""The rule score of a trajectory: how well the agent worked, read off the text alone.

    composite = sum of w * T(value) / sum of w, over the components that have a value

    sub  0.33  v    submission: it ended on its own terms, late results free of errors
    stp  0.27  v    number of turns: neither a handful nor hundreds
    tvr  0.23  v    tests: written, run, and passing in the end
    fec  0.10  v^5  few edits of the same file
    dpi  0.07  v^3  no known failure: nothing written, cut off, looping, repeating an error

Formats that declare no tools are recognised by the tools that are called, which the reference
leaves to an option. Apart from that it gives the numbers of the reference's rule score (TQS V2),
its weak points included, so that scores can be compared: it knows nothing of the verifier's
reward, a failing last test still earns 0.3, and results are taken to come in the order of their
calls. `rule_score_outcome` is ours.
"""

import re
from collections.abc import Callable
from itertools import groupby
from typing import Any

from pipeline.quality.rule_score.diagnostics import DIAGNOSTICS, reproduce_first
from pipeline.quality.rule_score.shell import is_test_file
from pipeline.quality.rule_score.text import strip_ansi, test_outcome
from pipeline.quality.rule_score.view import Call, Observation, View, view_of
from pipeline.trajectory import Trajectory

_WEIGHTS = {
    "sub": (0.33, 1),
    "stp": (0.27, 1),
    "tvr": (0.23, 1),
    "fec": (0.10, 5),
    "dpi": (0.07, 3),
}
"""Component -> (weight, exponent of T)."""

_STRONG_END = re.compile(
    r"\b(?:(?:fix|task|issue|bug|change|patch)\s+(?:is\s+)?"
    r"(?:complete|completed|fixed|resolved|done|verified|ready)"
    r"|(?:all\s+)?tests?\s+(?:now\s+)?pass(?:ed|ing)?"
    r"|successfully\s+(?:fixed|resolved|implemented|verified|applied)"
    r"|(?:the\s+)?(?:fix|patch|implementation)\s+(?:is\s+)?(?:complete|ready|working))\b",
    re.IGNORECASE,
)
_WEAK_END = re.compile(r"\b(?:complete|completed|fixed|done|resolved|verified)\b", re.IGNORECASE)
_MIN_TURNS, _MANY_TURNS, _MAX_TURNS = 5, 80, 200
_LOOP_LENGTH = 5
_SAME_ERROR_CHARACTERS = 80


def rule_score(trajectory: Trajectory) -> dict[str, Any]:
    """The score object of one trajectory, for `meta_info.unique_info._score`.

    Returns: scaffold, assistant_turns, total_tool_calls, <component>_score each (4 digits; None:
        there is nothing to judge), composite_score, reproduce_first (1.0, 0.0 or None).
    """
    return score_view(view_of(trajectory))


def score_view(view: View) -> dict[str, Any]:
    """As `rule_score`, of what has been read already."""
    values = {name: component(view) for name, component in _COMPONENTS.items()}
    diagnostics = {name: component(view) for name, component in DIAGNOSTICS.items()}
    rounded = {
        f"{name}_score": None if value is None else round(value, 4)
        for name, value in (diagnostics | values).items()
    }
    order = ("oec", "iac", "dpi", "ped", "psn", "tte", "scp", "sub", "fec", "stp", "tvr")
    return {
        "scaffold": view.scaffold,
        "assistant_turns": len(view.turns),
        "total_tool_calls": len(view.calls),
        **{f"{name}_score": rounded[f"{name}_score"] for name in order},
        "composite_score": round(composite(values), 4),
        "reproduce_first": reproduce_first(view),
    }


def composite(values: dict[str, float | None]) -> float:
    """Weighted mean of the components that have a value; 0.0 if none has."""
    known = [(*_WEIGHTS[name], value) for name, value in values.items() if value is not None]
    total = sum(weight for weight, _, _ in known)
    return sum(weight * value**power for weight, power, value in known) / total if total else 0.0


def submission(view: View) -> float:
    """SUB: how it ended, less for errors in the last 30 % of the results, more for a late test."""
    if not view.turns:
        return 0.0
    value = _ending(view)
    late = view.observations[7 * len(view.observations) // 10 :]
    if value > 0 and late:
        value *= 0.7 + 0.3 * (1 - sum(item.is_error for item in late) / len(late))
    first_late_turn = 8 * len(view.turns) // 10
    if any(
        call.is_formal_test
        for number, turn in enumerate(view.turns, 1)
        if number >= first_late_turn
        for call in turn.calls
    ):
        value = min(1.0, value + 0.15)
    return value


def _ending(view: View) -> float:
    if view.scaffold == "terminus2":
        return float(view.turns[-1].is_complete)
    if view.ends_with_finish:
        return 1.0
    if not view.is_openhands:
        return float(view.ends_with_text)
    if not view.ends_with_text or view.last is None:
        return 0.0
    if _STRONG_END.search(view.last.content):
        return 1.0
    return 0.8 if _WEAK_END.search(view.last.content) else 0.5


def steps(view: View) -> float:
    """STP: 1 from 5 to 80 turns, falling to 0 at none and at 200."""
    turns = len(view.turns)
    if turns < _MIN_TURNS:
        return turns / _MIN_TURNS
    if turns <= _MANY_TURNS:
        return 1.0
    if turns >= _MAX_TURNS:
        return 0.0
    return (1 - (turns - _MANY_TURNS) / (_MAX_TURNS - _MANY_TURNS)) ** 1.5


def verification(view: View, failing_credit: float = 0.3) -> float:
    """TVR: 0.3 for writing a test, 0.3 for running one, up to 0.4 for how the last run ended.

    `failing_credit`: the share of those 0.4 for a last run that fails.
    """
    wrote_test = any(is_test_file(path) for call in view.calls for path in call.edited)
    runs = [call for call in view.calls if call.is_verification]
    return 0.3 * wrote_test + 0.3 * bool(runs) + 0.4 * _last_run_credit(runs, failing_credit)


def _last_run_credit(runs: list[Call], failing_credit: float) -> float:
    if not runs:
        return 0.0
    observation = runs[-1].observation
    outcome = test_outcome(observation.content) if observation else "unknown"
    return {"pass": 1.0, "unknown": 0.6, "fail": failing_credit}[outcome]


def edit_churn(view: View) -> float | None:
    """FEC: 1 if every file is edited once, 0 from five times on average; None without edits."""
    paths = [path for call in view.calls for path in call.edited]
    if not paths:
        return None
    return 1 - min(max((len(paths) / len(set(paths)) - 1) / 4, 0.0), 1.0)


def failure_signs(view: View) -> float:
    """DPI: 1 less a penalty for each known way to fail, at least 0."""
    penalty = 0.0 if any(call.wrote for call in view.calls) else 0.40
    penalty += 0.40 * is_truncated(view)
    penalty += min(0.30, 3 * _loop_share(view.calls))
    penalty += min(0.30, 0.60 * _repeated_error_share(view.observations))
    return max(1 - penalty, 0.0)


def is_truncated(view: View) -> bool:
    """Whether it stopped without the agent having said that it is done."""
    if not view.turns:
        return True
    if view.scaffold == "terminus2":
        return not view.turns[-1].is_complete
    return not (view.ends_with_text or view.ends_with_finish)


def _loop_share(calls: list[Call]) -> float:
    """Share of the calls with a target that stand in runs of at least five equal ones."""
    signatures = [_signature(call) for call in calls]
    num_signed = sum(signature is not None for signature in signatures)
    runs = [(signature, len(list(group))) for signature, group in groupby(signatures)]
    num_looping = sum(
        length for signature, length in runs if signature is not None and length >= _LOOP_LENGTH
    )
    return num_looping / num_signed if num_signed else 0.0


def _signature(call: Call) -> tuple[str, str, str] | None:
    return (call.name, call.editor_command, call.targets[0]) if call.targets else None


def _repeated_error_share(observations: list[Observation]) -> float:
    """Share of the errors that begin like the error before them."""
    starts = [
        strip_ansi(item.content)[:_SAME_ERROR_CHARACTERS] for item in observations if item.is_error
    ]
    if not starts:
        return 0.0
    pairs = zip(starts, starts[1:], strict=False)
    return sum(one == next_one for one, next_one in pairs) / len(starts)


_COMPONENTS: dict[str, Callable[[View], float | None]] = {
    "sub": submission,
    "stp": steps,
    "tvr": verification,
    "fec": edit_churn,
    "dpi": failure_signs,
}
