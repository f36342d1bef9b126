"""Figures of the rule score that carry no weight: they describe how an agent works.

Each takes a View and gives a number from 0 to 1, or None where there is too little to judge.
Where the reference's text leaves an edge open (smoothing at the ends), only whole windows count.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, pairwise

from pipeline.quality.rule_score.shell import is_test_file
from pipeline.quality.rule_score.view import Call, CallClass, Turn, View

_ENTROPY_CHARACTERS = 5000
_BASELINE_OBSERVATIONS = 5
_NUM_CLASSES = 7
_SCOPE_TURNS = 5
_IDEAL_FIRST_WRITE = (0.20, 0.50)
_KEYWORDS: dict[CallClass, Sequence[str]] = {
    "read": "read look check examine open view inspect show".split(),
    "write": "write edit modify fix change update patch add insert replace".split(),
    "bash": "run execute test try install pip npm build".split(),
    "search": "search find grep locate list explore".split(),
    "submit": "finish submit complete done".split(),
}


def output_entropy(view: View) -> float | None:
    """OEC: lowest character entropy of three results in a row, relative to the first five."""
    entropies = [
        _entropy(item.content[:_ENTROPY_CHARACTERS]) / math.log(2) for item in view.observations
    ]
    if len(entropies) < _BASELINE_OBSERVATIONS:
        return None
    baseline = sum(entropies[:_BASELINE_OBSERVATIONS]) / _BASELINE_OBSERVATIONS
    if baseline <= 0:
        return None
    windows = zip(entropies, entropies[1:], entropies[2:], strict=False)
    return min(max(min(sum(window) / 3 for window in windows) / baseline, 0.0), 1.0)


def intent_match(view: View) -> float | None:
    """IAC: share of turns whose text has a word for what their first call does."""
    judged: list[bool] = []
    for turn in view.turns:
        text = f"{turn.message.reasoning_content} {turn.message.content}".lower()
        kind = _turn_class(view, turn)
        if kind is not None and text.strip():
            judged.append(any(word in text for word in _KEYWORDS[kind]))
    return sum(judged) / len(judged) if len(judged) >= 3 else None


def _turn_class(view: View, turn: Turn) -> CallClass | None:
    if view.scaffold == "terminus2":
        return "bash" if turn.calls else "submit" if turn.is_complete else None
    kinds = (call.kind for call in turn.calls)
    return next((kind for kind in kinds if kind in _KEYWORDS), None)


def reaction_to_errors(view: View) -> float | None:
    """PED: how different the next call is after an error, in tool and in files."""
    distances: list[float] = []
    for item in view.observations:
        if item.is_error and item.call:
            later = next((call for call in view.calls if call.turn > item.turn), None)
            if later:
                distances.append(_distance(item.call, later))
    return sum(distances) / len(distances) if distances else None


def _distance(one: Call, other: Call) -> float:
    files, other_files = set(one.targets), set(other.targets)
    union = files | other_files
    jaccard = len(files & other_files) / len(union) if union else 1.0
    return ((one.name != other.name) + 1 - jaccard) / 2


def narrowing(view: View) -> float | None:
    """PSN: whether fewer files are touched towards the end (1) or more (0)."""
    if len(view.turns) < 10:
        return None
    files = [{path for call in turn.calls for path in call.targets} for turn in view.turns]
    scopes = [
        len(set().union(*files[max(0, end - _SCOPE_TURNS) : end]))
        for end in range(1, len(files) + 1)
    ]
    pairs = list(combinations(scopes[len(scopes) // 2 :], 2))
    rising, falling = sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)
    if rising + falling == 0:
        return 0.5
    return (1 - (rising - falling) / (rising + falling)) / 2


def transitions(view: View) -> float | None:
    """TTE: entropy of pairs of consecutive kinds of call, relative to the largest possible."""
    if len(view.calls) < 3:
        return None
    pairs = pairwise(call.kind for call in view.calls)
    return min(_entropy(pairs) / math.log(_NUM_CLASSES**2), 1.0)


def first_write(view: View) -> float:
    """SCP: 1 if the first successful edit comes after 20 to 50 % of the turns, less outside."""
    written = next((call for call in view.calls if call.wrote), None)
    if written is None:
        return 0.0
    low, high = _IDEAL_FIRST_WRITE
    share = (written.turn + 1) / len(view.turns)
    distance = max(low - share, share - high, 0.0)
    return math.exp(-(distance**2) / (2 * 0.2**2))


def reproduce_first(view: View) -> float | None:
    """1.0 if something was run before the first edit of a file that is no test, else 0.0.

    None: there is no such edit. Edits by shell commands count for Terminus-2 only.
    """
    is_terminus = view.scaffold == "terminus2"
    for index, call in enumerate(view.calls):
        paths = call.edited if is_terminus or call.is_write_tool else []
        if any(not is_test_file(path) for path in paths):
            return float(any(earlier.is_verification for earlier in view.calls[:index]))
    return None


def _entropy(items: Iterable[object]) -> float:
    """Shannon entropy in nats."""
    counts = Counter(items)
    total = counts.total()
    return sum(number / total * math.log(total / number) for number in counts.values())


DIAGNOSTICS: dict[str, Callable[[View], float | None]] = {
    "oec": output_entropy,
    "iac": intent_match,
    "ped": reaction_to_errors,
    "psn": narrowing,
    "tte": transitions,
    "scp": first_write,
}
