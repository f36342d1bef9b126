"""What a settings model allows, in words: the field behind a path, its values, a key's home."""

import functools
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from pipeline.config.problems import KeyPath
from pipeline.config.strict import StrictModel


@dataclass(frozen=True)
class Place:
    """Where pydantic's `loc` points to."""

    path: KeyPath
    """Keys of the file; without the parts that name a branch of a union."""
    owner: type[StrictModel]
    """The model that the last key belongs to."""
    field: FieldInfo | None
    """The field of the last key; None if the owner has no such key."""


def find_place(model: type[StrictModel], loc: KeyPath) -> Place:
    """Follow `loc` through nested models."""
    owner = model
    for depth, part in enumerate(loc):
        info = owner.model_fields.get(str(part))
        here = loc[: depth + 1]
        if info is None:
            return Place(here, owner, None)
        section = section_model(info)
        if section is None or depth + 1 == len(loc):
            return Place(here, owner, info)
        owner = section
    return Place(loc, owner, None)


def section_model(info: FieldInfo) -> type[StrictModel] | None:
    """The model of a field that is a section; None for a value."""
    annotation = info.annotation
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        return annotation
    return None


@functools.cache
def sections(model: type[StrictModel]) -> Mapping[KeyPath, type[StrictModel]]:
    """Every section below `model` by its path; () is `model` itself."""
    return dict(_walk(model, ()))


def _walk(model: type[StrictModel], path: KeyPath) -> Iterator[tuple[KeyPath, type[StrictModel]]]:
    yield path, model
    for name, info in model.model_fields.items():
        if section := section_model(info):
            yield from _walk(section, (*path, name))


@dataclass
class Allowed:
    """The values that a field takes."""

    choices: list[Any] = field(default_factory=list)
    types: set[type] = field(default_factory=set)
    phrases: list[str] = field(default_factory=list)
    """In words, to be joined by "or"."""

    def __str__(self) -> str:
        return " or ".join(self.phrases)


def allowed(info: FieldInfo) -> Allowed:
    """What may stand at a field, from its annotation."""
    result = Allowed()
    _add(result, info.annotation, info.metadata)
    return result


def _add(result: Allowed, annotation: Any, limits: list[Any]) -> None:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *extra = get_args(annotation)
        _add(result, inner, [*limits, *extra])
    elif origin in (Union, types.UnionType):
        # null last: it is the least likely thing that the user wanted
        for branch in sorted(get_args(annotation), key=lambda branch: branch is types.NoneType):
            _add(result, branch, limits)
    elif origin is Literal or annotation is types.NoneType:
        choices = get_args(annotation) or (None,)
        result.choices += choices
        named = ", ".join(_in_yaml(choice) for choice in choices)
        result.phrases.append(f"one of {named}" if len(choices) > 1 else named)
    elif origin is list:
        items = Allowed()
        _add(items, get_args(annotation)[0], [])
        same = str(items) == str(result)
        result.phrases.append("a list of them" if same else f"a list with items that are {items}")
    else:
        result.types.add(annotation)
        result.phrases.append(_phrase(annotation, limits))


def _phrase(annotation: Any, limits: list[Any]) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    phrase = names.get(annotation, "a mapping of `key: value`")
    bounds = []
    for limit in _flat(limits):
        match limit:
            case annotated_types.Ge(ge=bound):
                bounds.append(f">= {bound:g}")
            case annotated_types.Gt(gt=bound):
                bounds.append(f"> {bound:g}")
            case annotated_types.Le(le=bound):
                bounds.append(f"<= {bound:g}")
            case annotated_types.Lt(lt=bound):
                bounds.append(f"< {bound:g}")
            case annotated_types.MinLen():
                phrase += ", not empty"
    return " ".join([phrase, " and ".join(bounds)]).strip()


def _flat(limits: list[Any]) -> Iterator[Any]:
    for limit in limits:
        if isinstance(limit, FieldInfo):  # Annotated[int, Field(ge=1)] inside a union
            yield from limit.metadata
        else:
            yield limit


def _in_yaml(choice: Any) -> str:
    return {None: "null", True: "true", False: "false"}.get(choice) or str(choice)
