"""config.schema.json: what editors complete and check config.yaml with.

Generated from the models, so that the descriptions on hover are the docstrings of the fields. The
training section is read by one of two models; which one holds is decided by `engine`, as in
`schema.config_model`.
"""

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from pipeline.config.schema import IGNORED_META_INFO, Config, config_model
from pipeline.trainer.llamafactory_keys import LLAMAFACTORY_KEYS

_ENGINE_IS_LLAMAFACTORY = {
    "properties": {
        "infrastructure": {
            "type": "object",
            "properties": {"engine": {"const": "llamafactory"}},
            "required": ["engine"],
        }
    },
    "required": ["infrastructure"],
}


class _WithoutTitles(GenerateJsonSchema):
    """Titles would only repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema_text() -> str:
    """The text of config.schema.json: draft 7, which every YAML editor knows."""
    schema = _schema(Config)
    definitions = schema["$defs"]
    definitions["LlamaFactoryTraining"] = _llamafactory_training()
    given = definitions["Input"]
    description = given["properties"]["training"].get("description", "")
    given["properties"]["training"] = {"description": description} if description else {}
    given |= {
        "if": _ENGINE_IS_LLAMAFACTORY,
        "then": _training_is("LlamaFactoryTraining"),
        "else": _training_is("Training"),
    }
    meta_info = definitions["MetaInfo"]["properties"]
    for key, why in IGNORED_META_INFO.items():
        meta_info[key] = {"description": f"Ignored: {why}."}
    for name, definition in definitions.items():
        definition.pop("title", None)
        if not definition.get("required"):
            definition["type"] = ["object", "null"]  # a section whose keys are all commented out
        assert definition["additionalProperties"] is False, name
    head = {"$schema": "http://json-schema.org/draft-07/schema#"}
    return json.dumps(head | schema, indent=2) + "\n"


def _schema(model: type[Config]) -> dict[str, Any]:
    return model.model_json_schema(schema_generator=_WithoutTitles)


def _llamafactory_training() -> dict[str, Any]:
    definition = _schema(config_model("llamafactory"))["$defs"]["LlamaFactoryTraining"]
    other = {key: {"description": "A key of LLaMA-Factory."} for key in sorted(LLAMAFACTORY_KEYS)}
    definition["properties"] |= other
    definition["additionalProperties"] = False
    return definition


def _training_is(name: str) -> dict[str, Any]:
    return {"properties": {"training": {"$ref": f"#/$defs/{name}"}}}
