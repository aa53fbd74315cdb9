"""One request as it arrived, and the script of its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Request:
    """One chat completion as it came in."""

    body: dict[str, Any]
    headers: dict[str, str]
    started: float
    cancelled: bool = False
    finished: bool = False
    first_token_at: float = 0.0
    """Seconds since the epoch."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        return self.body["messages"]

    @property
    def last(self) -> str:
        return text_of(self.messages[-1])


@dataclass
class Script:
    """How one request is answered."""

    deltas: tuple[str, ...] = ()
    pace: float = 0.0
    finish_reason: str = "stop"
    status: int = 200
    error: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False  # after the deltas: nothing until release()
    drop: bool = False  # after the deltas: the connection is aborted
    error_event: dict[str, Any] | None = None  # after the deltas: an error inside the stream
    usage: bool = True


def text_of(message: dict[str, Any]) -> str:
    """A message's words, also those beside pictures."""
    content = message["content"]
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content if "text" in part)


def pictures(messages: list[dict[str, Any]]) -> list[str]:
    """The data URLs of a prompt, in order."""
    contents = [message["content"] for message in messages if isinstance(message["content"], list)]
    return [part["image_url"]["url"] for content in contents for part in content if part["type"] == "image_url"]


def words(messages: list[dict[str, Any]]) -> int:
    """The fake's number of tokens: one for a word, and four for a message."""
    return sum(4 + len(text_of(message).split()) for message in messages)
