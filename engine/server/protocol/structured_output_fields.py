"""The request fields for structured output: OpenAI's `response_format`, vLLM's `structured_outputs`.

Knows the fields and what they may hold; whether a schema can be compiled is `engine.structured_output`'s to say.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from engine.server.protocol.errors import RequestError
from engine.server.protocol.field_types import Text
from engine.server.protocol.request_body import JsonObject

MAX_CHOICE_TEXTS: Final = 256


def _as_schema(value: object) -> object:
    if not isinstance(value, dict):
        raise PydanticCustomError("invalid_type", "must be a JSON schema, as an object")
    return value


def _only_known_type(value: object) -> object:
    if value not in ("text", "json_object", "json_schema"):
        raise PydanticCustomError("unsupported_parameter", "must be 'text', 'json_object' or 'json_schema'")
    return value


Choice = Annotated[list[Annotated[Text, Field(min_length=1)]], Field(min_length=1, max_length=MAX_CHOICE_TEXTS)]
Schema = Annotated[dict[str, object], BeforeValidator(_as_schema)]


class NamedSchema(JsonObject):
    """`json_schema` of a response format. Without a schema any JSON object is accepted."""

    name: Text = ""
    json_schema: Schema = Field({"type": "object"}, alias="schema")


class ResponseFormatField(JsonObject):
    """OpenAI's `response_format`."""

    type: Annotated[Literal["text", "json_object", "json_schema"], BeforeValidator(_only_known_type)]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            problem = "'response_format.json_schema' is missing."
            raise RequestError(problem, param="response_format", code="missing_parameter")
        return self


class StructuredOutputs(JsonObject):
    """vLLM's `structured_outputs`: exactly one of the four."""

    json_schema: Schema | None = Field(None, alias="json")
    json_object: Literal[True] | None = None
    regex: Annotated[Text, Field(min_length=1)] | None = None
    choice: Choice | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_one(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        for name in sorted({name for name in value if value[name]} - {"json", "json_object", "regex", "choice"}):
            problem = f"'structured_outputs.{name}' is not supported by this engine."
            raise RequestError(problem, param="structured_outputs", code="unsupported_parameter")
        if len([name for name, entry in value.items() if entry not in (None, False)]) != 1:
            problem = "'structured_outputs' must have exactly one of 'json', 'json_object', 'regex' and 'choice'."
            raise RequestError(problem, param="structured_outputs", code="invalid_value")
        return value


class StructuredOutputFields(JsonObject):
    """Fields of chat and plain completions; at most one of them."""

    response_format: ResponseFormatField | None = None
    structured_outputs: StructuredOutputs | None = None

    @property
    def has_structured_output(self) -> bool:
        """Whether a grammar restricts the reply."""
        has_format = self.response_format is not None and self.response_format.type != "text"
        return has_format or self.structured_outputs is not None

    @property
    def structured_output_param(self) -> str:
        """The field that asks for it."""
        return "response_format" if self.structured_outputs is None else "structured_outputs"

    @model_validator(mode="after")
    def _check_structured_output(self) -> Self:
        has_format = self.response_format is not None and self.response_format.type != "text"
        if has_format and self.structured_outputs is not None:
            problem = "'structured_outputs' cannot be combined with 'response_format'."
            raise RequestError(problem, param="structured_outputs", code="invalid_value")
        return self
