"""Digests of a prompt as it was sent, by which one that is built again is compared with it. Pure functions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from bot.engine_client.messages import Message, text_of
from models.types import PromptInputs

_SHORT = 8
"""Hexadecimal digits of a digest that only tells which message is another one now."""


def digest(messages: Sequence[Message]) -> str:
    """SHA-256 of the messages, pictures included."""
    return hashlib.sha256(_bytes(json.dumps(messages, ensure_ascii=False, sort_keys=True))).hexdigest()


def with_digests(inputs: PromptInputs, messages: Sequence[Message]) -> PromptInputs:
    """The inputs with a short digest of each message's words."""
    return replace(inputs, message_digests=tuple(short_digest(text_of(message)) for message in messages))


def short_digest(text: str) -> str:
    """The beginning of a text's digest."""
    return hashlib.sha256(_bytes(text)).hexdigest()[:_SHORT]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # the model may have written half a character
