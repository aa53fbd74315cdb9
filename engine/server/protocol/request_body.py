"""Turns the body of a request into a Pydantic model, and Pydantic's errors into error bodies of OpenAI's API.

Knows nothing of what the fields mean. A validator of a model reports a problem of its own as a PydanticCustomError:
its type is the `code` of the error body, its message the predicate of a sentence about the field.
"""

import json
import math
from typing import TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from engine.server.protocol.errors import RequestError

# Far more than the messages and token ids of any prompt that a model's context holds.
MAX_BRACKETS = 100_000
MAX_COMMAS = 1_000_000
TAG = "#"  # starts the tags of discriminated unions, which Pydantic puts into the path of a field
_TYPES = {"int": "an integer", "float": "a number", "bool": "a boolean", "list": "a list", "dict": "an object"}
_TYPES |= {"str": "a string", "string": "a string", "model": "an object"}


class JsonObject(BaseModel):
    """A JSON object in which null counts as absent. Types are strict: "5" is no number and 1 is no boolean."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: object) -> object:
        if isinstance(value, dict) and None in value.values():
            return {name: entry for name, entry in value.items() if entry is not None}
        return value


ModelT = TypeVar("ModelT", bound=JsonObject)


def parse_json(body: bytes) -> dict[str, object]:
    """The body's JSON object. NaN and Infinity, which Python's parser accepts, are not JSON. Raises RequestError."""

    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is not JSON")

    # Parsing holds Python's lock, and a body of empty objects takes fifty times as long as a text of that size.
    if body.count(b"{") + body.count(b"[") > MAX_BRACKETS or body.count(b",") > MAX_COMMAS:
        raise RequestError("The body has too many parts.", code="body_too_large", status=413)
    try:
        value: object = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise RequestError(f"The body is not valid JSON: {reason}.", code="invalid_json") from None
    if not isinstance(value, dict):
        raise RequestError("The body must be a JSON object.", code="invalid_json")
    return cast("dict[str, object]", value)


def validate(model: type[ModelT], value: dict[str, object]) -> ModelT:
    """The JSON object as a `model`. Raises RequestError for the first problem, in the order of the model's fields."""
    for name, entry in value.items():
        if isinstance(entry, float) and not math.isfinite(entry):  # 1e400, which Python's parser reads as infinity
            raise RequestError(f"'{name}' must be a smaller number.", param=name, code="invalid_value")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _request_error(error.errors(include_url=False)[0]) from None


def _request_error(problem: ErrorDetails) -> RequestError:
    """Pydantic's error as an error body.

    The message names the full path (`stop[1]`). `param` is that path inside `messages`, and the field's name elsewhere.
    """
    path = name = ""
    for step in problem["loc"]:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not step.startswith(TAG):
            path, name = f"{path}.{step}" if path else step, step
    kind, found = problem["type"], problem["input"]
    if kind == "missing":
        code, reason = "missing_parameter", "is missing"
    elif kind == "float_type" and type(found) is int:  # one of hundreds of digits
        code, reason = "invalid_value", "must be a smaller number"
    elif kind.endswith("_type") and kind.removesuffix("_type") in _TYPES:
        wanted, got = _TYPES[kind.removesuffix("_type")], type(found).__name__
        code, reason = "invalid_type", f"must be {wanted}, not {_TYPES.get(got, got)}"
    elif kind in ("invalid_type", "invalid_value", "unsupported_parameter"):
        code, reason = kind, problem["msg"]
    else:  # Pydantic's sentence, such as "Input should be less than or equal to 2"
        rule = problem["msg"].partition("should ")[2].replace(" after validation", "")
        code, reason = "invalid_value", f"must {rule}{_but_found(found)}"
    return RequestError(f"'{path}' {reason}.", param=path if path.startswith("messages") else name, code=code)


def _but_found(value: object) -> str:
    """Names a value that is short enough. Python refuses to print an integer of thousands of digits."""
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return ", not one that large"
    short = isinstance(value, int | float) or (isinstance(value, str) and len(value) <= 40)
    return f", not {value!r}" if short else ""
