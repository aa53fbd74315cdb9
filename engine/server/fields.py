"""Reads typed values out of a JSON object that came from a client; knows nothing of what the values mean.

Every refusal is a `RequestError` that names the parameter, in the shape and wording of OpenAI's API. `null` counts
as absent, because many clients send every field they know.
"""

import json
import math
from collections.abc import Mapping
from typing import cast

JsonObject = Mapping[str, object]


class RequestError(Exception):
    """A request that is answered with an error body instead of a result."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        kind: str = "invalid_request_error",
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status
        self.kind = kind
        self.retry_after = retry_after

    def body(self) -> dict[str, object]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def parse_object(body: bytes) -> JsonObject:
    """The request's JSON object. NaN and Infinity are not JSON, whatever Python's parser thinks."""

    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is not JSON")

    try:
        value: object = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise RequestError(f"The body is not valid JSON: {reason}.", code="invalid_json") from None
    if not isinstance(value, dict):
        raise RequestError("The body must be a JSON object.", code="invalid_json")
    return cast("JsonObject", value)


def _wrong_type(name: str, wanted: str, value: object) -> RequestError:
    got = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "an integer", float: "a number"}
    found = got.get(type(value), type(value).__name__)
    return RequestError(f"'{name}' must be {wanted}, not {found}.", param=name, code="invalid_type")


def number(body: JsonObject, name: str, default: float, low: float, high: float, *, open_low: bool = False) -> float:
    """A number in [low, high], or in (low, high] with `open_low`."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(name, "a number", value)
    if not (low < value <= high if open_low else low <= value <= high) or not math.isfinite(value):
        span = f"above {low:g} and at most {high:g}" if open_low else f"between {low:g} and {high:g}"
        raise RequestError(f"'{name}' must be {span}, not {value}.", param=name, code="invalid_value")
    return float(value)


def integer(body: JsonObject, name: str, low: int, high: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():  # some JSON writers know no integers
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type(name, "an integer", value)
    if not low <= value <= high:
        # An integer of thousands of digits is not worth repeating, and Python refuses to print it.
        shown = str(value) if abs(value) < 1 << 64 else "one that large"
        bound = f"at least {low}" if value < low else f"at most {high}"
        raise RequestError(f"'{name}' must be {bound}, not {shown}.", param=name, code="invalid_value")
    return value


def boolean(body: JsonObject, name: str, default: bool) -> bool:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _wrong_type(name, "a boolean", value)
    return value


def string(body: JsonObject, name: str, default: str = "") -> str:
    value = body.get(name)
    if value is None:
        return default
    return text(value, name)


def text(value: object, name: str) -> str:
    """A string of whole characters: half of a surrogate pair is not one and no tokenizer could encode it."""
    if not isinstance(value, str):
        raise _wrong_type(name, "a string", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RequestError(f"'{name}' holds half of a surrogate pair.", param=name, code="invalid_value") from None
    return value


def array(value: object, name: str) -> list[object]:
    if not isinstance(value, list):
        raise _wrong_type(name, "a list", value)
    return cast("list[object]", value)


def mapping(value: object, name: str) -> JsonObject:
    if not isinstance(value, dict):
        raise _wrong_type(name, "an object", value)
    return cast("JsonObject", value)
