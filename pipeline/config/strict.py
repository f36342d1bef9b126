"""The base of every settings model, and the text types that settings share.

Strict: no value is converted, no key is dropped, nothing changes after loading. A key that a model
knows but cannot use is named in `foreign_keys`, so that its user hears why instead of a guess.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema, model_validator


class StrictModel(BaseModel):
    """Settings that refuse unknown keys, conversions, non-finite numbers and later changes."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # an input may be a secret
    )

    foreign_keys: ClassVar[Mapping[str, str]] = {}
    """Key that is no field -> why it cannot be used here and what to do instead."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_an_empty_section(cls, value: Any) -> Any:
        return {} if value is None else value


def _null_to_empty(value: Any) -> Any:
    return "" if value is None else value


def _empty_to_null(value: Any) -> Any:
    return None if value == "" else value


Text = Annotated[str, BeforeValidator(_null_to_empty), WithJsonSchema({"type": ["string", "null"]})]
"""Optional text: null means the same as ""."""

EmptyIsNull = BeforeValidator(_empty_to_null)
"""Makes "" mean null."""

OptionalText = Annotated[str | None, EmptyIsNull]
"""Text or null: "" means the same as null."""
