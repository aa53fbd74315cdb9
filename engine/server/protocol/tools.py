"""The tools of a request, the tool calls in its messages, and those of a reply, in OpenAI's shapes.

Knows the fields; engine/chat/tool_calls.py knows how a model writes a call.
"""

import json
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from engine.chat.tool_calls import ToolCall

MAX_TOOLS = 128
_NAME = re.compile(r"[\w.-]{1,64}")


def _as_tool(value: object) -> object:
    """A function's definition, as the template gets it."""
    if not isinstance(value, dict) or value.get("type", "function") != "function":
        raise PydanticCustomError("unsupported_parameter", "must be a tool of type 'function'")
    function = value.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise PydanticCustomError("invalid_value", "must have a function with a name")
    if not _NAME.fullmatch(function["name"]):
        raise PydanticCustomError("invalid_value", "must have a name of at most 64 letters, digits and _.-")
    if not isinstance(function.get("parameters") or {}, dict):
        raise PydanticCustomError("invalid_value", "must have a JSON schema as its parameters")
    _check_text(value)
    return {"type": "function", **value}


def _as_call(value: object) -> object:
    """A call in an earlier message; templates want its arguments as an object."""
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise PydanticCustomError("invalid_value", "must have a function with a name")
    arguments = function.get("arguments") or {}
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise PydanticCustomError("invalid_value", "must have a JSON object as its arguments")
    call = {"id": str(value.get("id") or ""), "type": "function"}
    _check_text([function["name"], arguments, call["id"]])
    return {**call, "function": {"name": function["name"], "arguments": arguments}}


def _check_text(value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("invalid_value", "holds half of a surrogate pair") from None


def _as_choice(value: object) -> object:
    if value not in ("none", "auto"):
        raise PydanticCustomError("unsupported_parameter", "is not supported by this engine, except 'none' and 'auto'")
    return value


Tool = Annotated[dict[str, Any], BeforeValidator(_as_tool)]
Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)]
Call = Annotated[dict[str, Any], BeforeValidator(_as_call)]
Calls = Annotated[list[Call], Field(max_length=MAX_TOOLS, fail_fast=True)]
ToolChoice = Annotated[str, BeforeValidator(_as_choice)]


def call_body(call: ToolCall) -> dict[str, object]:
    """A call as a message of a response has it."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
