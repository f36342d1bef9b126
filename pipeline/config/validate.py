"""Checking a YAML document against a settings model, with all that is wrong in one error."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from pipeline.config.document import Document
from pipeline.config.explain import explain
from pipeline.config.problems import KeyPath, Problem, lines
from pipeline.config.strict import StrictModel
from pipeline.errors import ConfigError

Model = TypeVar("Model", bound=StrictModel)


def load_model(path: Path, model: type[Model]) -> Model:
    """Read a YAML file as `model`.

    Raises: ConfigError: one line for each thing that is wrong, with its position.
    """
    document = Document.read(path)
    return validate(document, model, document.data)


def validate(
    document: Document,
    model: type[Model],
    data: object,
    *,
    known_problems: Iterable[Problem] = (),
    override_at: Callable[[KeyPath], str | None] = lambda path: None,
) -> Model:
    """`data`, which is `document` with overrides applied, as an instance of `model`.

    Args:
        known_problems: what was found before; the model's complaints about the same path are left
            out.
        override_at: the override that a path comes from, as it is shown to the user.

    Raises: ConfigError: one line for each problem, in the order of the file, overrides last.
    """
    problems = [*document.problems, *known_problems]
    told = {problem.path for problem in problems}
    instance: Model | None = None
    try:
        instance = model.model_validate(data)
    except ValidationError as error:
        found = explain(error, model, data)
        problems += [problem for problem in found if problem.path not in told]

    def where(problem: Problem) -> tuple[object, str]:
        if override := override_at(problem.path):
            return (1, 0, 0), override
        position = problem.position or document.position(problem.path, at_key=problem.at_key)
        return (0, *position), f"{document.name}:{position}"

    if instance is None or problems:
        raise ConfigError("\n".join(lines(problems, where)))
    return instance
