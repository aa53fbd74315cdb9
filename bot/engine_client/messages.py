"""What goes to a chat completions endpoint and what comes back, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict


class Message(TypedDict):
    """One message of a prompt, as OpenAI's protocol spells it."""

    role: Literal["system", "user", "assistant"]
    content: str


def continuation_fields(messages: Sequence[Message]) -> dict[str, object]:
    """The fields with which vLLM and our engine go on with a last message of the assistant; empty for a new reply.

    Other servers, such as llama.cpp's, go on with it anyway.
    """
    if not messages or messages[-1]["role"] != "assistant":
        return {}
    return {"continue_final_message": True, "add_generation_prompt": False}


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the reply."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of the reply. A count is None if the server does not report usage."""

    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens of a prompt, and the size of the model's context in tokens."""

    count: int
    context_length: int
    dropped_messages: int | None = None
    """How many of the oldest messages the server left out of the count, if it was asked to and knows how."""
