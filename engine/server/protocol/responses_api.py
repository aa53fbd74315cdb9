"""OpenAI's /v1/responses, for chats: turns its request into a chat request, and shapes its answers.

Nothing is stored, so that a request holds its whole dialog. Knows the fields; generates nothing.
"""

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, cast

from pydantic import Field, PlainValidator
from pydantic_core import PydanticCustomError

from engine.server.protocol.errors import RequestError
from engine.server.protocol.field_types import Count, Text
from engine.server.protocol.logprobs import TokenLogprob
from engine.server.protocol.request_body import JsonObject, validate
from engine.server.protocol.requests import ChatRequest
from engine.server.protocol.responses import ChoiceEnd, CompleteChoice, ResponseFormat, Usage, encode
from engine.server.protocol.sampling_fields import SamplingFields
from engine.server.protocol.unsupported import refuse_unsupported

# Fields that mean the same in a chat request.
_PASSED_ON: Final = frozenset(
    {"model", "temperature", "top_p", "stream", "user", "cache_salt", "seed", "stop", "ignore_eos"}
    | (SamplingFields.model_fields.keys() - {"n", "best_of"})
)
_OWN: Final = frozenset({"input", "instructions", "max_output_tokens", "text"})
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


def validate_responses(model: str, value: dict[str, object]) -> tuple[ChatRequest, "ResponsesFormat"]:
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
    messages = _messages(body)
    fields: dict[str, object] = {
        **{name: value[name] for name in _PASSED_ON if value.get(name) is not None},
        "messages": messages,
        "max_tokens": body.max_output_tokens,
        "response_format": _response_format(body.text.format),
    }
    try:
        request = validate(ChatRequest, fields)
    except RequestError as error:
        raise rename_fields(error, value) from error
    return request, ResponsesFormat(model, value)


def rename_fields(error: RequestError, value: Mapping[str, Any]) -> RequestError:
    """An error of the chat request made from `value`, with the field names of this API."""
    shift = 1 if value.get("instructions") else 0  # which became the first message

    def item(match: re.Match[str]) -> str:
        return "input" if isinstance(value["input"], str) else f"input[{int(match[1]) - shift}]"

    def rename(text: str) -> str:
        text = re.sub(r"\bmessages\[(\d+)\]", item, text)
        for name, new in _NEW_NAMES:
            text = re.sub(rf"\b{name}\b", new, text)
        return text

    return RequestError(
        rename(error.message),
        param=None if error.param is None else rename(error.param),
        code=error.code,
        status=error.status,
        error_type=error.error_type,
        retry_after=error.retry_after,
    )


def _messages(body: _ResponsesBody) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*messages, {"role": "user", "content": body.input}]
    for index, item in enumerate(body.input):
        if item.get("type", "message") != "message":
            raise RequestError(
                f"'input[{index}].type' is not supported: the only type of an item is 'message'.",
                param=f"input[{index}].type",
                code="unsupported_parameter",
            )
        messages.append({name: entry for name, entry in item.items() if name not in ("type", "id", "status")})
    return messages


def _response_format(given: Mapping[str, Any]) -> dict[str, Any]:
    """`text.format` has the fields of a schema beside its type, `response_format` inside."""
    if given.get("type") != "json_schema":
        return dict(given)
    return {"type": "json_schema", "json_schema": {name: value for name, value in given.items() if name != "type"}}


def _unsupported(name: str, reason: str) -> RequestError:
    return RequestError(f"'{name}' {reason}.", param=name, code="unsupported_parameter")


class ResponsesFormat(ResponseFormat):
    """The one response object and its events. There is one choice."""

    id_prefix = "resp_"

    def __init__(self, model: str, request: Mapping[str, Any]) -> None:
        """`request`: the fields as the client sent them; an answer repeats some."""
        super().__init__(model, include_usage=True)
        self._request = request
        self._item_id = "msg_" + secrets.token_hex(12)
        self._pieces: list[str] = []
        self._end: ChoiceEnd | None = None
        self._num_events = 0

    def renamed(self, error: RequestError) -> RequestError:
        """See `rename_fields`."""
        return rename_fields(error, self._request)

    def first_chunk(self, _index: int) -> bytes:
        """The events before the first token."""
        created = self._response("in_progress", [], None)
        return (
            self._event("response.created", response=created)
            + self._event("response.in_progress", response=created)
            + self._event("response.output_item.added", output_index=0, item=self._item("in_progress", None))
            + self._event("response.content_part.added", **self._place(), part=_part(""))
        )

    def delta(self, text: str, _index: int = 0, _logprobs: Sequence[TokenLogprob] | None = None) -> bytes:
        """The event that adds `text`."""
        self._pieces.append(text)
        return self._event("response.output_text.delta", **self._place(), delta=text, logprobs=[])

    def last_chunk(self, _index: int, end: ChoiceEnd, _logprobs: Sequence[TokenLogprob] | None = None) -> bytes:
        """The events after the last token."""
        self._end, text = end, "".join(self._pieces)
        return (
            self._event("response.output_text.done", **self._place(), text=text, logprobs=[])
            + self._event("response.content_part.done", **self._place(), part=_part(text))
            + self._event("response.output_item.done", output_index=0, item=self._item(_status(end), text))
        )

    def end(self, usage: Usage) -> bytes:
        """The event with the whole response. There is no `[DONE]` in this API."""
        end = self._end or ChoiceEnd("stop")
        choice = CompleteChoice("".join(self._pieces), end)
        return self._event(f"response.{_status(end)}", response=self._complete_body(choice, usage))

    def error(self, error: RequestError) -> bytes:
        """The event of a response that the engine could not finish."""
        failed = self._response("failed", [], None)
        failed["error"] = {"code": "server_error", "message": error.message}
        return self._event("response.failed", response=failed)

    def complete(self, choices: Sequence[CompleteChoice], usage: Usage) -> bytes:
        """The body of a response that is not streamed."""
        return encode(self._complete_body(choices[0], usage))

    def _complete_body(self, choice: CompleteChoice, usage: Usage) -> dict[str, object]:
        body = self._response(_status(choice.end), [self._item(_status(choice.end), choice.text)], usage)
        if choice.end.finish_reason == "length":
            body["incomplete_details"] = {"reason": "max_output_tokens"}
        if choice.end.stop_reason:
            body["stop_reason"] = choice.end.stop_reason
        return body

    def _event(self, kind: str, **fields: object) -> bytes:
        number, self._num_events = self._num_events, self._num_events + 1
        data = encode({"type": kind, "sequence_number": number, **fields})
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), data)

    def _place(self) -> dict[str, object]:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _item(self, status: str, text: str | None) -> dict[str, object]:
        content = [] if text is None else [_part(text)]
        return {"id": self._item_id, "type": "message", "status": status, "role": "assistant", "content": content}

    def _response(self, status: str, output: list[dict[str, object]], usage: Usage | None) -> dict[str, object]:
        asked = self._request
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.get("instructions"),
            "max_output_tokens": asked.get("max_output_tokens"),
            "model": self._model,
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": asked.get("temperature", 1.0),
            "text": asked.get("text") or {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": asked.get("top_p", 1.0),
            "truncation": "disabled",
            "usage": None if usage is None else _usage(usage),
            "user": asked.get("user"),
            "metadata": asked.get("metadata") or {},
        } | ({"completed_at": int(time.time())} if status == "completed" else {})


def _status(end: ChoiceEnd) -> str:
    return "incomplete" if end.finish_reason == "length" else "completed"


def _part(text: str) -> dict[str, object]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
