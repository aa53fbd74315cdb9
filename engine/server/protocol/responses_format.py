"""The answers of OpenAI's /v1/responses: the response object, and the events of a stream.

The output is a list of items, a message or the call of a function each, and a stream opens and closes one after the
other. Knows nothing of how they are generated.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.server.protocol.errors import RequestError
from engine.server.protocol.logprobs import TokenLogprob
from engine.server.protocol.responses import ChoiceEnd, CompleteChoice, ResponseFormat, Usage, encode

Item = dict[str, Any]


class ResponsesFormat(ResponseFormat):
    """The one response object and its events. There is one choice."""

    id_prefix = "resp_"

    def __init__(self, model: str, request: Mapping[str, Any], renamed: Callable[[RequestError], RequestError]) -> None:
        """`request`: the fields as the client sent them; an answer repeats some.

        `renamed`: an error of the chat request that was made of them, with the field names of this API.
        """
        super().__init__(model, include_usage=True)
        self._request = request
        self.renamed = renamed
        self._output: list[Item] = []  # items of a stream that are complete
        self._message_id = ""  # of the message that is open; empty: none
        self._pieces: list[str] = []
        self._end: ChoiceEnd | None = None
        self._num_events = 0

    def first_chunk(self, _index: int) -> bytes:
        """The events before the first item."""
        created = self._response("in_progress", [], None)
        return self._event("response.created", response=created) + self._event("response.in_progress", response=created)

    def delta(self, text: str, _index: int = 0, _logprobs: Sequence[TokenLogprob] | None = None) -> bytes:
        """The event that adds `text`, after those that open a message."""
        before = b"" if self._message_id else self._open_message()
        self._pieces.append(text)
        return before + self._event("response.output_text.delta", **self._place(), delta=text, logprobs=[])

    def fields_delta(self, fields: Mapping[str, object], _index: int = 0) -> bytes:
        """The events of calls, each complete. Reasoning is not part of this API's answers here."""
        calls = fields.get("tool_calls")
        if not isinstance(calls, list):
            return b""
        return self._close_message("completed") + b"".join(map(self._call_events, calls))

    def last_chunk(self, _index: int, end: ChoiceEnd, _logprobs: Sequence[TokenLogprob] | None = None) -> bytes:
        """The events after the last token. A response has at least one item."""
        self._end = end
        before = b"" if self._message_id or self._output else self._open_message()
        return before + self._close_message(_status(end))

    def end(self, usage: Usage) -> bytes:
        """The event with the whole response. There is no `[DONE]` in this API."""
        end = self._end or ChoiceEnd("stop")
        return self._event(f"response.{_status(end)}", response=self._body(self._output, end, usage))

    def error(self, error: RequestError) -> bytes:
        """The event of a response that the engine could not finish."""
        failed = self._response("failed", [], None)
        failed["error"] = {"code": "server_error", "message": error.message}
        return self._event("response.failed", response=failed)

    def complete(self, choices: Sequence[CompleteChoice], usage: Usage) -> bytes:
        """The body of a response that is not streamed."""
        choice, calls = choices[0], choices[0].fields.get("tool_calls")
        output = [_function_call(call) for call in calls] if isinstance(calls, list) else []
        if choice.text or not output:
            output.insert(0, _message(_new_id("msg"), _status(choice.end), choice.text))
        return encode(self._body(output, choice.end, usage))

    def _body(self, output: list[Item], end: ChoiceEnd, usage: Usage) -> dict[str, object]:
        body = self._response(_status(end), output, usage)
        if end.finish_reason == "length":
            body["incomplete_details"] = {"reason": "max_output_tokens"}
        if end.stop_reason:
            body["stop_reason"] = end.stop_reason
        return body

    def _open_message(self) -> bytes:
        self._message_id = _new_id("msg")
        item = _message(self._message_id, "in_progress", None)
        return self._event("response.output_item.added", output_index=len(self._output), item=item) + self._event(
            "response.content_part.added", **self._place(), part=_part("")
        )

    def _close_message(self, status: str) -> bytes:
        """The events that complete the message, if one is open."""
        if not self._message_id:
            return b""
        text, index = "".join(self._pieces), len(self._output)
        item = _message(self._message_id, status, text)
        events = (
            self._event("response.output_text.done", **self._place(), text=text, logprobs=[])
            + self._event("response.content_part.done", **self._place(), part=_part(text))
            + self._event("response.output_item.done", output_index=index, item=item)
        )
        self._output.append(item)
        self._message_id, self._pieces = "", []
        return events

    def _call_events(self, call: Mapping[str, Any]) -> bytes:
        item, index = _function_call(call), len(self._output)
        place: dict[str, object] = {"item_id": item["id"], "output_index": index}
        arguments, begun = item["arguments"], {**item, "arguments": "", "status": "in_progress"}
        self._output.append(item)
        return (
            self._event("response.output_item.added", output_index=index, item=begun)
            + self._event("response.function_call_arguments.delta", **place, delta=arguments)
            + self._event("response.function_call_arguments.done", **place, name=item["name"], arguments=arguments)
            + self._event("response.output_item.done", output_index=index, item=item)
        )

    def _event(self, kind: str, **fields: object) -> bytes:
        number, self._num_events = self._num_events, self._num_events + 1
        data = encode({"type": kind, "sequence_number": number, **fields})
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), data)

    def _place(self) -> dict[str, object]:
        return {"item_id": self._message_id, "output_index": len(self._output), "content_index": 0}

    def _response(self, status: str, output: list[Item], usage: Usage | None) -> dict[str, object]:
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
            "parallel_tool_calls": asked.get("parallel_tool_calls") is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": asked.get("temperature", 1.0),
            "text": asked.get("text") or {"format": {"type": "text"}},
            "tool_choice": asked.get("tool_choice") or "auto",
            "tools": [
                {"description": None, "parameters": None, "strict": False, **tool} for tool in asked.get("tools") or []
            ],
            "top_p": asked.get("top_p", 1.0),
            "truncation": "disabled",
            "usage": None if usage is None else _usage(usage),
            "user": asked.get("user"),
            "metadata": asked.get("metadata") or {},
        } | ({"completed_at": int(time.time())} if status == "completed" else {})


def _status(end: ChoiceEnd) -> str:
    return "incomplete" if end.finish_reason == "length" else "completed"


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def _message(item_id: str, status: str, text: str | None) -> Item:
    content = [] if text is None else [_part(text)]
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": content}


def _part(text: str) -> dict[str, object]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _function_call(call: Mapping[str, Any]) -> Item:
    """A call as a chat's message has it."""
    item = {"id": _new_id("fc"), "type": "function_call", "status": "completed", "call_id": call["id"]}
    return {**item, **call["function"]}


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
