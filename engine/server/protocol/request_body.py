"""Turns the body of a request into a Pydantic model, and Pydantic's errors into error bodies of OpenAI's API.

Knows nothing of what the fields mean. A validator of a model reports a problem of its own as a PydanticCustomError:
its type is the `code` of the error body, its message the predicate of a sentence about the field.
"""

import json
import math
from collections import Counter
from typing import TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from engine.server.protocol.errors import RequestError

# More than the messages and token ids of any prompt that a model's context holds.
MAX_BRACKETS = 100_000
MAX_COMMAS = 1 << 18
MAX_OBJECTS = 20_000  # messages and parts of messages; each becomes several Python objects
MAX_FIELDS = 1000
MAX_DIGITS = 4000  # of an integer; Python itself stops at 4300
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
    """The body's JSON object, as strict as the standard: no NaN, and no name twice in an object. Raises RequestError.

    Large bodies belong on another thread: the parser holds Python's lock only from one number or object to the next.
    """
    # Texts hold brackets and commas too. A text with more of them than this fits no context.
    if body.count(b"{") + body.count(b"[") > MAX_BRACKETS or body.count(b",") > MAX_COMMAS:
        raise _too_many_parts()
    try:
        value: object = json.loads(
            body,
            parse_constant=_no_constant,
            parse_int=_integer,
            parse_float=_number,
            object_pairs_hook=_ObjectReader(),
        )
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise RequestError(f"The body is not valid JSON: {reason}.", code="invalid_json") from None
    if not isinstance(value, dict):
        raise RequestError("The body must be a JSON object.", code="invalid_json")
    return cast("dict[str, object]", value)


def _no_constant(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


# As functions of Python, between whose calls other threads run.
def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number has too many digits")
    return int(digits)


def _number(digits: str) -> float:
    return float(digits)


class _ObjectReader:
    """Makes the objects of one body: at most MAX_OBJECTS of at most MAX_FIELDS, and no name twice in one."""

    def __init__(self) -> None:
        self._left = MAX_OBJECTS

    def __call__(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        self._left -= 1
        if self._left < 0 or len(pairs) > MAX_FIELDS:
            raise _too_many_parts()
        fields = dict(pairs)
        if len(fields) < len(pairs):  # servers differ in which of the two counts
            name = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"{name[:40]!r} is there twice")
        return fields


def _too_many_parts() -> RequestError:
    return RequestError("The body has too many parts.", code="body_too_large", status=413)


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
