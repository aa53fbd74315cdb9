"""Response bodies as OpenAI's clients expect them: complete objects, and the chunks of a stream.

Knows nothing of how text is generated. `ResponseFormat.delta` is the hot path of the server (one call per token and
client), so everything in a chunk but its text is encoded once per response. The JSON is ASCII, because some clients
split a stream at Unicode's line separators too.
"""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from engine.server.protocol.errors import RequestError
from engine.server.protocol.logprobs import TokenLogprob, chat_logprobs, completion_logprobs

FinishReason = Literal["stop", "length", "tool_calls"]
REPETITION = "repetition"  # our own `stop_reason`, of a choice that repeated itself
DONE = b"data: [DONE]\n\n"
_TOKENS_AT_ONCE = 20_000
_LOGPROBS_AT_ONCE = 2_000


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


@dataclass(frozen=True, slots=True)
class ChoiceEnd:
    """Why a choice ended: OpenAI's finish reason, and what brought it about, where that is known."""

    finish_reason: FinishReason
    stop_reason: str | None = None  # a stop string, or REPETITION


@dataclass(frozen=True, slots=True)
class CompleteChoice:
    """One choice of a response that is not streamed. `fields`: of the message, beside its text."""

    text: str
    end: ChoiceEnd
    logprobs: Sequence[TokenLogprob] | None = None
    fields: Mapping[str, object] = field(default_factory=dict)


def encode(body: object) -> bytes:
    """ASCII JSON without spaces."""
    return json.dumps(body, separators=(",", ":")).encode()


def encode_in_python(body: object) -> bytes:
    """`encode`, slower, in steps between which other threads run."""
    return "".join(json.JSONEncoder(separators=(",", ":")).iterencode(body)).encode()


def has_many_logprobs(choices: Sequence[CompleteChoice]) -> bool:
    """Whether the body of these choices takes long to encode."""
    entries = (len(each.top) + 1 for choice in choices for each in choice.logprobs or ())
    return sum(entries) > _LOGPROBS_AT_ONCE


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
    """The fields around the texts of one response. A subclass gives the object names and the contents of a choice."""

    complete_object = ""
    chunk_object = ""
    id_prefix = ""

    def __init__(self, model: str, *, include_usage: bool, echoed: Sequence[str] = ()) -> None:
        """`echoed`: the text before each choice, where the prompt is part of the response."""
        self._model = model
        self.id = self.id_prefix + secrets.token_hex(12)
        self._created = int(time.time())
        self._include_usage = include_usage
        self._echoed = echoed
        self._templates: dict[int, tuple[bytes, bytes]] = {}  # by choice

    def first_chunk(self, _index: int) -> bytes:
        """The event before the first token of a choice; empty: none."""
        return b""

    def delta(self, text: str, index: int = 0, logprobs: Sequence[TokenLogprob] | None = None) -> bytes:
        """The event that adds `text` to a choice."""
        if logprobs is not None:
            return event(self._chunk(self._choice(index, text, None, logprobs)))
        before, after = self._templates.get(index) or self._template(index)
        return before + encode(text) + after

    def fields_delta(self, fields: Mapping[str, object], index: int = 0) -> bytes:
        """The event that adds reasoning or tool calls; empty: none."""
        return b""

    def last_chunk(self, index: int, end: ChoiceEnd, logprobs: Sequence[TokenLogprob] | None = None) -> bytes:
        """The event after the last token of a choice."""
        return event(self._chunk(self._choice(index, "", end, logprobs)))

    def end(self, usage: Usage) -> bytes:
        """The events after all choices: the usage if the client asked for it, and `[DONE]`."""
        if not self._include_usage:
            return DONE
        return event({**self._envelope(self.chunk_object), "choices": [], "usage": usage.body()}) + DONE

    def error(self, error: RequestError) -> bytes:
        """The event that ends a stream instead of `end`."""
        return event(error.body())

    def complete(self, choices: Sequence[CompleteChoice], usage: Usage) -> bytes:
        """The body of a response that is not streamed. One with many log-probabilities belongs on another thread."""
        bodies = [self._complete_choice(index, choice) for index, choice in enumerate(choices)]
        body = {**self._envelope(self.complete_object), "choices": bodies, "usage": usage.body()}
        return encode_in_python(body) if has_many_logprobs(choices) else encode(body)

    def _template(self, index: int) -> tuple[bytes, bytes]:
        """A chunk with a placeholder for its text, split at the placeholder."""
        before, after = event(self._chunk(self._choice(index, "\x00", None, None))).split(encode("\x00"))
        self._templates[index] = before, after
        return before, after

    def _envelope(self, object_name: str) -> dict[str, object]:
        return {"id": self.id, "object": object_name, "created": self._created, "model": self._model}

    def _chunk(self, choice: dict[str, object]) -> dict[str, object]:
        chunk: dict[str, object] = {**self._envelope(self.chunk_object), "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = None
        return chunk

    def _choice(
        self, index: int, text: str, end: ChoiceEnd | None, logprobs: Sequence[TokenLogprob] | None
    ) -> dict[str, object]:
        raise NotImplementedError

    def _complete_choice(self, index: int, choice: CompleteChoice) -> dict[str, object]:
        raise NotImplementedError


class ChatResponseFormat(ResponseFormat):
    """/v1/chat/completions."""

    complete_object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    id_prefix = "chatcmpl-"

    def first_chunk(self, index: int) -> bytes:
        """The event that names the role."""
        return event(self._chunk(self._delta_choice(index, {"role": "assistant", "content": ""}, None, None)))

    def fields_delta(self, fields: Mapping[str, object], index: int = 0) -> bytes:
        """An event with `reasoning_content` (DeepSeek's and llama.cpp's name, vLLM's `reasoning`) or `tool_calls`."""
        return event(self._chunk(self._delta_choice(index, fields, None, None)))

    def _choice(
        self, index: int, text: str, end: ChoiceEnd | None, logprobs: Sequence[TokenLogprob] | None
    ) -> dict[str, object]:
        return self._delta_choice(index, {"content": text} if end is None or text else {}, end, logprobs)

    def _delta_choice(
        self, index: int, delta: Mapping[str, object], end: ChoiceEnd | None, logprobs: Sequence[TokenLogprob] | None
    ) -> dict[str, object]:
        return {"index": index, "delta": delta, "logprobs": chat_logprobs(logprobs), **_end_fields(end)}

    def _complete_choice(self, index: int, choice: CompleteChoice) -> dict[str, object]:
        message: dict[str, object] = {"role": "assistant", "content": choice.text, "refusal": None}
        message |= choice.fields
        calls = choice.fields.get("tool_calls")
        if isinstance(calls, list):
            message["content"] = choice.text or None
            message["tool_calls"] = [{key: call[key] for key in ("id", "type", "function")} for call in calls]
        logprobs = chat_logprobs(choice.logprobs)
        return {"index": index, "message": message, "logprobs": logprobs, **_end_fields(choice.end)}


class CompletionResponseFormat(ResponseFormat):
    """/v1/completions."""

    complete_object = "text_completion"
    chunk_object = "text_completion"
    id_prefix = "cmpl-"

    def first_chunk(self, index: int) -> bytes:
        """The event with an echoed prompt."""
        return self.delta(self._echoed[index], index) if self._echoed else b""

    def _choice(
        self, index: int, text: str, end: ChoiceEnd | None, logprobs: Sequence[TokenLogprob] | None
    ) -> dict[str, object]:
        return {"index": index, "text": text, "logprobs": completion_logprobs(logprobs), **_end_fields(end)}

    def _complete_choice(self, index: int, choice: CompleteChoice) -> dict[str, object]:
        echoed = self._echoed[index] if self._echoed else ""
        return self._choice(index, echoed + choice.text, choice.end, choice.logprobs)


def _end_fields(end: ChoiceEnd | None) -> dict[str, object]:
    if end is None:
        return {"finish_reason": None}
    # vLLM's name for what ended the choice. OpenAI's clients know no other finish reason, and some refuse one.
    return {"finish_reason": end.finish_reason, **({"stop_reason": end.stop_reason} if end.stop_reason else {})}
