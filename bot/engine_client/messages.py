"""What goes to a chat completions endpoint and what comes back, as plain values."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict


class TextPart(TypedDict):
    """A text beside pictures."""

    type: Literal["text"]
    text: str


class ImageUrl(TypedDict):
    """A picture as a data URL: the bot never lets a server load one from elsewhere."""

    url: str


class ImagePart(TypedDict):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl


Content = str | list[TextPart | ImagePart]


class Message(TypedDict):
    """One message of a prompt, as OpenAI's protocol spells it. Only with pictures its content is a list."""

    role: Literal["system", "user", "assistant"]
    content: Content


def image_part(media_type: str, data: bytes) -> ImagePart:
    """A picture with its bytes in it."""
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    return ImagePart(type="image_url", image_url=ImageUrl(url=url))


def content_with_images(text: str, images: Sequence[ImagePart]) -> Content:
    """The content of a message: the pictures before the words about them. Without pictures it is the text itself."""
    return [*images, TextPart(type="text", text=text)] if images else text


def text_of(message: Message) -> str:
    """What a message says in words."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def count_images(messages: Sequence[Message]) -> int:
    """How many pictures a prompt has."""
    contents = [message["content"] for message in messages]
    return sum(part["type"] == "image_url" for parts in contents if isinstance(parts, list) for part in parts)


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
    count: int = 1
    """In how many pieces the server sent it: those that came together are one."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """A piece of thought. Its text is not passed on."""

    chars: int
    retracts: bool = False
    """Whether the deltas so far were thoughts as well."""
    count: int = 1
    """As of a Delta."""


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


ReplyEvent = Delta | Thinking | Finished
"""The events of a stream."""
