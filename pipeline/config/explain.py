"""From pydantic's errors to problems in our words: what is allowed, what was found, what to do."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pipeline.config.fields import (
    Allowed,
    Place,
    allowed,
    find_place,
    section_model,
    sections,
)
from pipeline.config.nearest import nearest
from pipeline.config.problems import KeyPath, Problem, dotted, is_secret, shown
from pipeline.config.strict import StrictModel

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_SPOKEN_BOOLS = {"true": "true", "yes": "true", "on": "true"} | {
    "false": "false",
    "no": "false",
    "off": "false",
}
_MAX_KEYS_LISTED = 12


def explain(error: ValidationError, model: type[StrictModel], data: object) -> list[Problem]:
    """One problem for each path of `data` that pydantic complained about."""
    problems: dict[KeyPath, Problem] = {}
    for item in error.errors(include_url=False):
        place = find_place(model, item["loc"])
        if place.path not in problems:
            problems[place.path] = _problem(place, dict(item), model, data)
    meant = {problem.suggests for problem in problems.values() if problem.suggests}
    return [
        problem
        for path, problem in problems.items()
        if path not in meant or _lookup(data, path) is not _ABSENT
    ]


def _problem(
    place: Place, error: Mapping[str, Any], model: type[StrictModel], data: object
) -> Problem:
    if place.field is None:
        return _unknown_key(place, model)
    if error["type"] == "missing":
        return Problem(place.path, _missing(place))
    if error["type"] == "value_error":  # raised by a validator of ours, in our words
        return Problem(place.path, str(error["ctx"]["error"]))
    return Problem(place.path, _wrong_value(place, _lookup(data, place.path)))


_ABSENT = object()


def _lookup(data: object, path: KeyPath) -> object:
    for part in path:
        if not isinstance(data, dict) or part not in data:
            return _ABSENT
        data = data[part]
    return data


def _missing(place: Place) -> str:
    assert place.field is not None
    if section := section_model(place.field):
        required = [name for name, info in section.model_fields.items() if info.is_required()]
        return f"required section is missing; add it with {', '.join(required) or 'its keys'}"
    return f"required key is missing; add it ({allowed(place.field)})"


def _unknown_key(place: Place, model: type[StrictModel]) -> Problem:
    *parent, key = place.path
    section = tuple(parent)
    key = str(key)
    if reason := place.owner.foreign_keys.get(key):
        return Problem(place.path, reason, at_key=True)
    homes = [home for home, owner in sections(model).items() if key in owner.model_fields]
    if homes:
        names = " or ".join(dotted(home) or "the top level" for home in homes)
        suggests = (*homes[0], key) if len(homes) == 1 else None
        return Problem(
            place.path, f"unknown key here; it belongs in {names}", at_key=True, suggests=suggests
        )
    if found := nearest(key, [*place.owner.model_fields, *place.owner.foreign_keys]):
        what = f"unknown key; did you mean {found}?"
        if reason := place.owner.foreign_keys.get(found):
            what += f" It is {reason}"
        return Problem(place.path, what, at_key=True, suggests=(*section, found))
    everywhere = {
        name: (*home, name)
        for home, owner in sections(model).items()
        for name in owner.model_fields
    }
    if found := nearest(key, everywhere):
        path = everywhere[found]
        what = f"unknown key; did you mean {dotted(path)}?"
        return Problem(place.path, what, at_key=True, suggests=path)
    valid = list(place.owner.model_fields)
    listed = ", ".join(valid[:_MAX_KEYS_LISTED]) + (
        ", ..." if len(valid) > _MAX_KEYS_LISTED else ""
    )
    return Problem(place.path, f"unknown key; remove it (valid keys: {listed})", at_key=True)


def _wrong_value(place: Place, value: object) -> str:
    assert place.field is not None
    if section_model(place.field):
        return f"must be a section of `key: value` lines (got {shown(value, place.path)})"
    permitted = allowed(place.field)
    hint = "" if is_secret(place.path) else _hint(permitted, value)
    return f"must be {permitted} (got {shown(value, place.path)}){hint}"


def _hint(permitted: Allowed, value: object) -> str:
    """What to write instead, with the separator in front; empty if nothing better is known."""
    if isinstance(value, str):
        return _hint_for_text(permitted, value)
    if str in permitted.types and isinstance(value, bool | int | float):
        return "; put it in quotes"
    if isinstance(value, float) and int in permitted.types and value.is_integer():
        return f"; write {int(value)}"
    return ""


def _hint_for_text(permitted: Allowed, value: str) -> str:
    word = value.strip().lower()
    if permitted.types & {int, float}:
        if _NUMBER.fullmatch(value):
            return "; remove the quotes"
        digits = value.replace("_", "").replace(",", "").strip()
        if _NUMBER.fullmatch(digits):
            return f"; write {digits}"
    if bool in permitted.types and word in _SPOKEN_BOOLS:
        return f"; write {_SPOKEN_BOOLS[word]} without quotes"
    if None in permitted.choices and word in ("none", "null", "~"):
        return "; write null without quotes"
    choice = nearest(value, [choice for choice in permitted.choices if isinstance(choice, str)])
    return f"; did you mean {choice}?" if choice else ""
