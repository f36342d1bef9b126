"""config.yaml, read strictly: everything that is wrong with it in one message, with positions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.document import Document, display_name, read_source
from pipeline.config.overrides import INPUT, Override, apply_override, read_override
from pipeline.config.placeholders import placeholders
from pipeline.config.problems import KeyPath, Problem
from pipeline.config.schema import IGNORED_META_INFO, Config, config_model
from pipeline.config.secrets import literal_secrets
from pipeline.config.validate import validate
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class LoadedConfig:
    """A config that is valid, and what it was made from."""

    path: Path
    """Absolute."""
    source: bytes = field(repr=False)
    """The file as it was read: what a run records must not be read a second time."""
    config: Config
    overrides: tuple[str, ...]
    ignored: tuple[tuple[str, int, str], ...]
    """(dotted key, line, why) of keys that load but mean nothing here."""

    def resolved(self) -> dict[str, Any]:
        """All values with the defaults filled in, JSON-able; secrets as their references."""
        return self.config.model_dump(mode="json")


def load_config(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read and check config.yaml.

    Args:
        overrides: `key=value`, applied in order; see `overrides`.

    Raises: ConfigError: the file or an override cannot be used; one line for each thing wrong.
    """
    source = read_source(path)
    document = Document.parse(source, display_name(path))
    read, data = _apply(overrides, document.data)
    data, ignored_values = _split_ignored(data)
    given = _at(data, INPUT)
    problems = [
        *literal_secrets(ignored_values, ("meta_info",)),
        *_secrets_for_other_engine(_at(given, ("training",))),
        *placeholders(given, INPUT),
    ]
    engine = _at(given, ("infrastructure", "engine"))
    config = validate(
        document,
        config_model("llamafactory" if engine == "llamafactory" else "native"),
        data,
        known_problems=problems,
        override_at=lambda key_path: _origin(read, document, key_path),
    )
    return LoadedConfig(
        path=path.absolute(),
        source=source,
        config=config,
        overrides=tuple(overrides),
        ignored=tuple(
            (f"meta_info.{key}", document.position(("meta_info", key)).line, IGNORED_META_INFO[key])
            for key in ignored_values
        ),
    )


def _apply(texts: Sequence[str], data: dict[str, Any]) -> tuple[list[Override], dict[str, Any]]:
    read: list[Override] = []
    errors: list[str] = []
    for text in texts:
        try:
            override = read_override(text)
            data = apply_override(data, override)
        except ConfigError as error:
            errors.append(str(error))
        else:
            read.append(override)
    if errors:
        raise ConfigError("\n".join(errors))
    return read, data


def _origin(overrides: list[Override], document: Document, path: KeyPath) -> str | None:
    """The last override that set the value at `path`, or a section around it, or made its key."""
    for override in reversed(overrides):
        is_made = override.path[: len(path)] == path and not document.has(path)
        if is_made or path[: len(override.path)] == override.path:
            return str(override)
    return None


def _split_ignored(data: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The data without the ignored keys of meta_info, and these keys with their values."""
    meta_info = data.get("meta_info")
    if not isinstance(meta_info, dict):
        return data, {}
    kept = {key: value for key, value in meta_info.items() if key not in IGNORED_META_INFO}
    ignored = {key: value for key, value in meta_info.items() if key in IGNORED_META_INFO}
    return {**data, "meta_info": kept}, ignored


def _secrets_for_other_engine(training: object) -> list[Problem]:
    """LLaMA-Factory has token keys of its own; nothing there would read a reference."""
    way_out = "holds a secret; remove it and set runtime_info.input.credentials instead"
    found = literal_secrets(training, (*INPUT, "training"))
    return [Problem(problem.path, way_out) for problem in found]


def _at(data: object, path: KeyPath) -> object:
    for part in path:
        data = data.get(part) if isinstance(data, dict) else None
    return data
