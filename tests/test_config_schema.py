"""config.schema.json is current and says of each key what the models say.

Run: python -m pytest tests/test_config_schema.py
After a change of the models: sft config schema > config.schema.json
"""

import json
from collections.abc import Iterator
from typing import Any

from pipeline.config.fields import sections
from pipeline.config.json_schema import schema_text
from pipeline.config.schema import Config, config_model
from pipeline.paths import PROJECT_ROOT
from pipeline.trainer.llamafactory_keys import LLAMAFACTORY_KEYS


def test_the_committed_schema_is_current() -> None:
    assert (PROJECT_ROOT / "config.schema.json").read_text(encoding="utf-8") == schema_text()


def test_every_key_has_a_docstring() -> None:
    models = [*sections(Config).values(), *sections(config_model("llamafactory")).values()]
    undocumented = [
        f"{model.__name__}.{name}"
        for model in models
        for name, info in model.model_fields.items()
        if not info.description and info.annotation not in models
    ]
    assert undocumented == []


def test_limits_choices_and_meanings_reach_the_editor() -> None:
    definitions = json.loads(schema_text())["$defs"]
    training = definitions["Training"]["properties"]
    assert training["cutoff_len"] == {
        "default": 32768,
        "description": "Longest example, in tokens.",
        "minimum": 1,
        "type": "integer",
    }
    assert training["save_strategy"]["enum"] == ["steps", "epoch", "no"]
    assert "resources" in definitions["MetaInfo"]["properties"]
    assert "null" in definitions["Dataset"]["type"]
    assert all(definition["additionalProperties"] is False for definition in definitions.values())


def test_the_engine_decides_which_training_keys_the_editor_takes() -> None:
    definitions = json.loads(schema_text())["$defs"]
    native, other = definitions["Training"], definitions["LlamaFactoryTraining"]
    assert definitions["Input"]["then"]["properties"]["training"]["$ref"].endswith(
        "/LlamaFactoryTraining"
    )
    assert native["properties"].keys().isdisjoint(LLAMAFACTORY_KEYS)
    assert other["properties"].keys() == native["properties"].keys() | LLAMAFACTORY_KEYS
    assert "enum" not in other["properties"]["optim"]


def test_every_reference_has_a_target() -> None:
    schema = json.loads(schema_text())
    names = {target.removeprefix("#/$defs/") for target in _references(schema)}
    assert names == schema["$defs"].keys()


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(target := node.get("$ref"), str):
            yield target
        for child in node.values():
            yield from _references(child)
    elif isinstance(node, list):
        for child in node:
            yield from _references(child)
