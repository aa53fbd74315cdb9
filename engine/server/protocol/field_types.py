"""The types of the request fields: bounds, lenient spellings that many clients send, and values that are refused.

Knows what a value may be, not which field has it.
"""

import operator
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, LiteralString

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainValidator,
)
from pydantic_core import PydanticCustomError

from engine.server.protocol.request_body import TAG

TEXT, LIST = f"{TAG}text", f"{TAG}list"  # the tags of a field that is either a string or a list
MAX_PROMPTS: Final = 64  # of one request
_NOT_SUPPORTED: Final = "is not supported by this engine"


def _only(accepts: Callable[[Any], bool], reason: LiteralString = _NOT_SUPPORTED) -> AfterValidator:
    """Refuses the field, for `reason`, unless `accepts` returns true for its value."""

    def check(value: object) -> object:
        if not accepts(value):
            raise PydanticCustomError("unsupported_parameter", reason)
        return value

    return AfterValidator(check)


def _as_role(value: object) -> object:
    if value == "function":
        raise PydanticCustomError("unsupported_parameter", _NOT_SUPPORTED)
    return "system" if value == "developer" else value


def _as_integer(value: object) -> object:
    """5.0 is 5: some JSON writers have no integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _encodable(value: object) -> object:
    """Half of a surrogate pair is valid JSON, and no tokenizer could encode it."""
    try:
        if isinstance(value, str):
            value.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("invalid_value", "holds half of a surrogate pair") from None
    return value


def _only_token_ids(value: object) -> list[int]:
    """Without a Python or Pydantic step for each of what may be a million entries."""
    if not isinstance(value, list) or not set(map(type, value)) <= {int}:
        raise PydanticCustomError("invalid_type", "must be a list of token ids")
    if value and not (min(value) >= 0 and max(value) < 1 << 31):
        raise PydanticCustomError("invalid_value", "holds a number that is no token id")
    return value


def _as_prompts(value: object) -> list[str] | list[list[int]]:
    """A text, a list of token ids, or a list of either."""
    if isinstance(value, str):
        return [_check_text(value)]
    if not isinstance(value, list):
        raise PydanticCustomError("invalid_type", "must be a string, a list of token ids, or a list of either")
    while len(value) == 1 and isinstance(value[0], list):  # a batch of one prompt is that prompt
        value = value[0]
    if not any(isinstance(entry, str | list) for entry in value):
        return [_only_token_ids(value)]
    if len(value) > MAX_PROMPTS:
        raise PydanticCustomError("invalid_value", f"may have at most {MAX_PROMPTS} prompts")
    if all(isinstance(entry, str) for entry in value):
        return [_check_text(entry) for entry in value]
    return [_only_token_ids(entry) for entry in value]


def _check_text(value: str) -> str:
    _encodable(value)
    return value


# Values that the server uses.
Text = Annotated[str, BeforeValidator(_encodable)]
Label = Annotated[str, Field(max_length=512), BeforeValidator(_encodable)]
StopString = Annotated[str, Field(min_length=1, max_length=1024), BeforeValidator(_encodable)]
Role = Annotated[Literal["system", "user", "assistant", "tool"], BeforeValidator(_as_role)]
Integer = Annotated[int, BeforeValidator(_as_integer)]
Count = Annotated[Integer, Field(ge=1, le=1 << 31)]
Prompts = Annotated[list[str] | list[list[int]], PlainValidator(_as_prompts)]
TokenIds = Annotated[list[int], PlainValidator(_only_token_ids)]
TextOrList = Discriminator(lambda value: LIST if isinstance(value, list) else TEXT)
StringAsList = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)

# Values that are accepted only where they change nothing, and are not used.
Refused = Annotated[object, _only(operator.not_)]
TextModality = Annotated[list[Any], _only(lambda values: all(value == "text" for value in values))]
PartType = Annotated[
    object,
    _only(
        lambda value: value in ("text", "input_text", "output_text"),
        "is not supported: the only type of a part is 'text'",
    ),
]
