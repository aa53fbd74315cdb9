"""OpenAI's /v1/responses, for chats: turns its request into a chat request. responses_format.py shapes its answers.

Nothing is stored, so that a request holds its whole dialog. Knows the fields; generates nothing.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, cast

from pydantic import Field, PlainValidator
from pydantic_core import PydanticCustomError

from engine.server.protocol.errors import RequestError, replaced
from engine.server.protocol.field_types import Count, Text
from engine.server.protocol.request_body import JsonObject, validate
from engine.server.protocol.requests import ChatRequest
from engine.server.protocol.responses_format import ResponsesFormat
from engine.server.protocol.responses_input import InputDialog, dialog_of
from engine.server.protocol.sampling_fields import SamplingFields
from engine.server.protocol.unsupported import refuse_unsupported

# Fields that mean the same in a chat request.
_PASSED_ON: Final = frozenset(
    {"model", "temperature", "top_p", "stream", "user", "cache_salt", "seed", "stop", "ignore_eos"}
    | (SamplingFields.model_fields.keys() - {"n", "best_of"})
)
_OWN: Final = frozenset(
    {"input", "instructions", "max_output_tokens", "text", "tools", "tool_choice", "parallel_tool_calls"}
)
_OF_CHAT: Final = {
    **dict.fromkeys(("messages", "prompt"), "input"),
    **dict.fromkeys(("max_tokens", "max_completion_tokens"), "max_output_tokens"),
    **dict.fromkeys(("response_format", "structured_outputs"), "text"),
}
_NEW_NAMES: Final = (("messages", "input"), ("max_tokens", "max_output_tokens"), ("response_format", "text.format"))
# Values of `include` that add nothing to an answer of this engine.
_HARMLESS_INCLUDES: Final = {"reasoning.encrypted_content"}


def _as_input(value: object) -> object:
    if not isinstance(value, str | list):
        raise PydanticCustomError("invalid_type", "must be a string or a list of messages")
    if isinstance(value, list) and not all(isinstance(item, dict) for item in value):
        raise PydanticCustomError("invalid_type", "must be a list of objects")
    return value


class _TextFormat(JsonObject):
    format: dict[str, Any] = Field({"type": "text"})


class _ResponsesBody(JsonObject):
    input: Annotated[str | list[dict[str, Any]], PlainValidator(_as_input)]
    instructions: Text | None = None
    max_output_tokens: Count | None = None
    text: _TextFormat = _TextFormat()
    background: bool = False
    include: Annotated[list[str], Field(max_length=20)] = Field([])
    truncation: Text = "disabled"
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool = True


def validate_responses(model: str, value: dict[str, object]) -> tuple[ChatRequest, ResponsesFormat]:
    """The request as a chat request, and the format of its answer by `model`. Raises RequestError."""
    for name, right in _OF_CHAT.items():
        if value.get(name) is not None:
            raise _unsupported(name, f"is not a field of this API: send '{right}'")
    if value.get("n") not in (None, 1):
        raise _unsupported("n", "must be 1 in this API")
    refuse_unsupported(value, dict.fromkeys(_PASSED_ON | _OWN))
    body = validate(_ResponsesBody, value)
    refuse_unsupported({} if value.get("text") is None else cast("dict[str, object]", value["text"]), {"format": True})
    if body.background:
        raise _unsupported("background", "is not supported by this engine")
    if body.truncation != "disabled":
        raise _unsupported("truncation", "must be 'disabled': this engine does not shorten a dialog")
    if unknown := sorted({*body.include} - _HARMLESS_INCLUDES):
        raise _unsupported("include", f"holds '{unknown[0][:60]}', which is not supported by this engine")
    dialog = dialog_of(body.input, body.instructions)
    fields: dict[str, object] = {
        **{name: value[name] for name in _PASSED_ON if value.get(name) is not None},
        "messages": dialog.messages,
        "max_tokens": body.max_output_tokens,
        "response_format": _response_format(body.text.format),
        "tools": body.tools and [_function_inside(tool) for tool in body.tools],
        "tool_choice": _tool_choice(body.tool_choice),
        "parallel_tool_calls": body.parallel_tool_calls,
    }

    def renamed(error: RequestError) -> RequestError:
        """An error of the chat request, with the field names of this API."""
        return replaced(error, lambda text: _renamed(dialog, text))

    try:
        request = validate(ChatRequest, fields)
    except RequestError as error:
        raise renamed(error) from error
    return request, ResponsesFormat(model, value, renamed)


def _renamed(dialog: InputDialog, text: str) -> str:
    text = dialog.rename(text)
    for name, new in _NEW_NAMES:
        text = re.sub(rf"\b{name}\b", new, text)
    return re.sub(r"\b(tools\[\d+\])\.function\b", r"\1", text)


def _function_inside(tool: object) -> object:
    """`tools` have the fields of a function beside its type, a chat's inside."""
    if not isinstance(tool, dict) or tool.get("type") != "function":
        return tool
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _tool_choice(given: object) -> object:
    if not isinstance(given, dict):
        return given
    if given.get("type") != "allowed_tools":
        return _function_inside(given)
    tools = given.get("tools")
    allowed = {
        "mode": given.get("mode"),
        "tools": [_function_inside(tool) for tool in tools] if isinstance(tools, list) else tools,
    }
    return {"type": "allowed_tools", "allowed_tools": allowed}


def _response_format(given: Mapping[str, Any]) -> dict[str, Any]:
    """`text.format` has the fields of a schema beside its type, `response_format` inside."""
    if given.get("type") != "json_schema":
        return dict(given)
    return {"type": "json_schema", "json_schema": {name: value for name, value in given.items() if name != "type"}}


def _unsupported(name: str, reason: str) -> RequestError:
    return RequestError(f"'{name}' {reason}.", param=name, code="unsupported_parameter")
