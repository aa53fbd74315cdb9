"""The tools of a request, the tool calls in its messages, and those of a reply, in OpenAI's shapes.

Knows the fields; engine/chat/tool_calls.py knows how a model writes a call.
"""

import json
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, PlainValidator
from pydantic_core import PydanticCustomError

from engine.chat.tool_calls import MAX_CALLS, ToolCall

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
    parameters = function.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise PydanticCustomError("invalid_value", "must have a JSON schema as its parameters")
    kinds = parameters.get("type", "object")
    if "object" not in (kinds if isinstance(kinds, list) else [kinds]):
        raise PydanticCustomError("invalid_value", "must have a JSON schema of type 'object' as its parameters")
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


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`named`: the one function of `names` is called. Otherwise `names` are those that may be called; empty: all."""

    mode: Literal["none", "auto", "required", "named"] = "auto"
    names: tuple[str, ...] = ()


_CHOICES = "must be 'none', 'auto', 'required', a function by name, or 'allowed_tools'"


def _as_choice(value: object) -> ToolChoice:
    """OpenAI's forms of `tool_choice`: a word, a function, or the allowed tools with a word."""
    if value in ("none", "auto", "required"):
        return ToolChoice(value)
    if not isinstance(value, dict) or value.get("type") not in ("function", "allowed_tools"):
        raise PydanticCustomError("unsupported_parameter", _CHOICES)
    if value["type"] == "function":
        return ToolChoice("named", (_function_name(value),))
    allowed = value.get("allowed_tools")
    if not isinstance(allowed, dict) or allowed.get("mode") not in ("auto", "required"):
        raise PydanticCustomError("invalid_value", "must have 'allowed_tools' with the mode 'auto' or 'required'")
    if not isinstance(allowed.get("tools"), list) or not allowed["tools"] or len(allowed["tools"]) > MAX_TOOLS:
        raise PydanticCustomError("invalid_value", "must have a list of the tools that are allowed")
    return ToolChoice(allowed["mode"], tuple(map(_function_name, allowed["tools"])))


def _function_name(value: object) -> str:
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise PydanticCustomError("invalid_value", "must have a function with a name")
    return cast("str", function["name"])


Tool = Annotated[dict[str, Any], BeforeValidator(_as_tool)]
Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)]
Call = Annotated[dict[str, Any], BeforeValidator(_as_call)]
Calls = Annotated[list[Call], Field(max_length=MAX_CALLS, fail_fast=True)]
ToolChoiceField = Annotated[ToolChoice, PlainValidator(_as_choice)]


def call_body(call: ToolCall) -> dict[str, object]:
    """A call as a message of a response has it."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
