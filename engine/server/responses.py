"""The bodies of answers, exactly as OpenAI's clients expect them: whole objects, and the chunks of a stream.

Knows nothing of how text comes about. A chunk of text is the hot path of the server (one per token and client), so
everything in it but the text is encoded once per reply. The JSON is ASCII: a line separator of Unicode must not look
like the end of a line to a client that splits by them.
"""

import json
import secrets
import time
from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    def body(self) -> dict[str, object]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


def encode(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def event(body: object) -> bytes:
    return b"data: " + encode(body) + b"\n\n"


class ResponseFormat:
    """One reply's envelope; `ChatShape` and `TextShape` say what is inside a choice."""

    whole_object = ""
    chunk_object = ""
    prefix = ""

    def __init__(self, model: str, *, include_usage: bool) -> None:
        self._model = model
        self._id = self.prefix + secrets.token_hex(12)
        self._created = int(time.time())
        self._include_usage = include_usage
        # A chunk with a marker in the text's place, cut in two at the marker.
        marked = event(self._chunk(self._choice("\x00", None)))
        self._before, self._after = marked.split(encode("\x00"))

    def opening(self) -> bytes:
        return b""

    def delta(self, text: str) -> bytes:
        return self._before + encode(text) + self._after

    def closing(self, finish_reason: FinishReason, usage: Usage) -> bytes:
        last = event(self._chunk(self._choice("", finish_reason)))
        if self._include_usage:
            last += event({**self._envelope(self.chunk_object), "choices": [], "usage": usage.body()})
        return last + DONE

    def whole(self, text: str, finish_reason: FinishReason, usage: Usage) -> bytes:
        choice = self._whole_choice(text, finish_reason)
        return encode({**self._envelope(self.whole_object), "choices": [choice], "usage": usage.body()})

    def _envelope(self, kind: str) -> dict[str, object]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _chunk(self, choice: dict[str, object]) -> dict[str, object]:
        chunk: dict[str, object] = {**self._envelope(self.chunk_object), "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = None
        return chunk

    def _choice(self, text: str, finish_reason: FinishReason | None) -> dict[str, object]:
        raise NotImplementedError

    def _whole_choice(self, text: str, finish_reason: FinishReason) -> dict[str, object]:
        raise NotImplementedError


class ChatResponseFormat(ResponseFormat):
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    prefix = "chatcmpl-"

    def opening(self) -> bytes:
        return event(self._chunk(self._of({"role": "assistant", "content": ""}, None)))

    def _choice(self, text: str, finish_reason: FinishReason | None) -> dict[str, object]:
        return self._of({"content": text} if finish_reason is None else {}, finish_reason)

    def _of(self, delta: dict[str, object], finish_reason: FinishReason | None) -> dict[str, object]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}

    def _whole_choice(self, text: str, finish_reason: FinishReason) -> dict[str, object]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}


class CompletionResponseFormat(ResponseFormat):
    whole_object = "text_completion"
    chunk_object = "text_completion"
    prefix = "cmpl-"

    def _choice(self, text: str, finish_reason: FinishReason | None) -> dict[str, object]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}

    def _whole_choice(self, text: str, finish_reason: FinishReason) -> dict[str, object]:
        return self._choice(text, finish_reason)
