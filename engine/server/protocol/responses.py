"""Response bodies as OpenAI's clients expect them: complete objects, and the chunks of a stream.

Knows nothing of how text is generated. `ResponseFormat.delta` is the hot path of the server (one call per token and
client), so everything in a chunk but its text is encoded once per response. The JSON is ASCII, because some clients
split a stream at Unicode's line separators too.
"""

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

FinishReason = Literal["stop", "length", "tool_calls"]
DONE = b"data: [DONE]\n\n"
_TOKENS_AT_ONCE = 20_000


@dataclass(frozen=True, slots=True)
class Usage:
    """The token counts of one response; `cached_tokens` are the prompt tokens that a cached prefix covered.

    `reasoning_tokens`: of a model that thinks before it answers; they are among the completion tokens.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int | None = None

    def body(self) -> dict[str, object]:
        """The `usage` object of a response."""
        body: dict[str, object] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
        if self.reasoning_tokens is not None:
            body["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        return body


def encode(body: object) -> bytes:
    """ASCII JSON without spaces."""
    return json.dumps(body, separators=(",", ":")).encode()


def encode_tokens(body: Mapping[str, object]) -> bytes:
    """`encode`, with a list of `tokens` encoded in parts: one call for very many would hold Python's lock too long."""
    tokens = cast("list[int]", body["tokens"])
    parts = (encode(tokens[n : n + _TOKENS_AT_ONCE])[1:-1] for n in range(0, len(tokens), _TOKENS_AT_ONCE))
    before, after = encode({**body, "tokens": "\x00"}).split(encode("\x00"))
    return before + b"[" + b",".join(parts) + b"]" + after


def event(body: object) -> bytes:
    """A server-sent event."""
    return b"data: " + encode(body) + b"\n\n"


class ResponseFormat:
    """The fields around the text of one response. A subclass gives the object names and the contents of a choice."""

    complete_object = ""
    chunk_object = ""
    id_prefix = ""

    def __init__(self, model: str, *, include_usage: bool) -> None:
        self._model = model
        self._id = self.id_prefix + secrets.token_hex(12)
        self._created = int(time.time())
        self._include_usage = include_usage
        # A chunk with a placeholder for its text, split at the placeholder.
        template = event(self._chunk(self._choice("\x00", None)))
        self._before, self._after = template.split(encode("\x00"))

    def first_chunk(self) -> bytes:
        """The event before the first token; empty: none."""
        return b""

    def delta(self, text: str) -> bytes:
        """The event that adds `text`."""
        return self._before + encode(text) + self._after

    def fields_delta(self, fields: Mapping[str, object]) -> bytes:
        """The event that adds what the model thinks, or calls of tools; empty: none."""
        return b""

    def last_chunks(self, finish_reason: FinishReason, usage: Usage) -> bytes:
        """The events after the last token: the finish reason, the usage if the client asked for it, and `[DONE]`."""
        last = event(self._chunk(self._choice("", finish_reason)))
        if self._include_usage:
            last += event({**self._envelope(self.chunk_object), "choices": [], "usage": usage.body()})
        return last + DONE

    def complete(
        self, text: str, finish_reason: FinishReason, usage: Usage, fields: Mapping[str, object] | None = None
    ) -> bytes:
        """The body of a response that is not streamed; `fields`: of the message, beside its text."""
        choice = self._complete_choice(text, finish_reason, fields or {})
        return encode({**self._envelope(self.complete_object), "choices": [choice], "usage": usage.body()})

    def _envelope(self, object_name: str) -> dict[str, object]:
        return {"id": self._id, "object": object_name, "created": self._created, "model": self._model}

    def _chunk(self, choice: dict[str, object]) -> dict[str, object]:
        chunk: dict[str, object] = {**self._envelope(self.chunk_object), "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = None
        return chunk

    def _choice(self, text: str, finish_reason: FinishReason | None) -> dict[str, object]:
        raise NotImplementedError

    def _complete_choice(
        self, text: str, finish_reason: FinishReason, fields: Mapping[str, object]
    ) -> dict[str, object]:
        raise NotImplementedError


class ChatResponseFormat(ResponseFormat):
    """/v1/chat/completions."""

    complete_object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    id_prefix = "chatcmpl-"
    include_reasoning = True
    """Whether the client wants to read what the model thinks."""

    def first_chunk(self) -> bytes:
        """The event that names the role."""
        return event(self._chunk(self._delta_choice({"role": "assistant", "content": ""}, None)))

    def fields_delta(self, fields: Mapping[str, object]) -> bytes:
        """An event with `reasoning_content` (vLLM's and DeepSeek's name) or `tool_calls`."""
        wanted = self._wanted(fields)
        return event(self._chunk(self._delta_choice(wanted, None))) if wanted else b""

    def _wanted(self, fields: Mapping[str, object]) -> dict[str, object]:
        return {name: value for name, value in fields.items() if name != "reasoning_content" or self.include_reasoning}

    def _choice(self, text: str, finish_reason: FinishReason | None) -> dict[str, object]:
        return self._delta_choice({"content": text} if finish_reason is None else {}, finish_reason)

    def _delta_choice(self, delta: dict[str, object], finish_reason: FinishReason | None) -> dict[str, object]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}

    def _complete_choice(
        self, text: str, finish_reason: FinishReason, fields: Mapping[str, object]
    ) -> dict[str, object]:
        message: dict[str, object] = {"role": "assistant", "content": text, "refusal": None, **self._wanted(fields)}
        calls = fields.get("tool_calls")
        if isinstance(calls, list):
            message["content"] = text or None
            message["tool_calls"] = [{key: call[key] for key in ("id", "type", "function")} for call in calls]
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}


class CompletionResponseFormat(ResponseFormat):
    """/v1/completions."""

    complete_object = "text_completion"
    chunk_object = "text_completion"
    id_prefix = "cmpl-"

    def _choice(self, text: str, finish_reason: FinishReason | None) -> dict[str, object]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}

    def _complete_choice(
        self, text: str, finish_reason: FinishReason, fields: Mapping[str, object]
    ) -> dict[str, object]:
        return self._choice(text, finish_reason)
