"""Finds out whether a model sees pictures, by showing it one that it must read, and remembers the answer.

Most servers without eyes refuse a picture; some drop it without a word, and the model would invent what it shows. Knows
one picture; how a request is sent is passed in.
"""

from __future__ import annotations

import asyncio
import functools
import re
import struct
import zlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import structlog

from bot.engine_client.errors import ContextExceeded, PromptRefused
from bot.engine_client.messages import Delta, Finished, ImagePart, Message, ReplyEvent, content_with_images, image_part
from bot.errors import EngineTimeout, ImagesNotSeen

log = structlog.get_logger(__name__)

Ask = Callable[[list[Message]], AsyncGenerator[ReplyEvent, None]]

_SECONDS = 60.0

NUMBER = "742"
"""The number in the picture, unlikely as a guess."""
_QUESTION = "Which number is in this picture? Answer with its digits only."
_DIGITS = {"7": "###..#..#..#..#", "4": "#.##.####..#..#", "2": "###..#####..###"}
_ROWS, _COLUMNS, _BLOCK, _SIDE = 5, 3, 36, 448
_TOKENS_OF_WORDS = 60
"""More than the question takes with any chat template, and fewer than with any model's tokens for the picture."""


class ImageSupport:
    """What is known of the models of one server."""

    def __init__(self) -> None:
        self._known: dict[str, bool] = {}
        self._lock = asyncio.Lock()

    def known(self, model: str | None) -> bool | None:
        """Whether this model sees pictures, or None if it was not found out yet."""
        return self._known.get(model or "")

    def learn_refusal(self, model: str | None) -> None:
        """The model has refused a picture."""
        self._known[model or ""] = False

    async def find_out(self, model: str, ask: Ask) -> bool:
        """Whether this model sees pictures; `ask` sends a prompt, once, and streams the reply.

        Raises Busy or EngineUnavailable, and then nothing is known.
        """
        async with self._lock:
            if model not in self._known:
                self._known[model] = await _test(ask)
                log.info("the model was shown a picture", model=model, sees_pictures=self._known[model])
            return self._known[model]


def sight_test() -> list[Message]:
    """A prompt that only a model with eyes answers with `NUMBER`."""
    return [Message(role="user", content=content_with_images(_QUESTION, [_test_picture()]))]


def has_seen(answer: str, prompt_tokens: int | None) -> bool:
    """Whether the answer to `sight_test` is from a model that got the picture.

    A weak eye misreads it. Then the picture shows in the prompt's size, where the server reports that.
    """
    return NUMBER in re.sub(r"\D", "", answer) or prompt_tokens is None or prompt_tokens >= _TOKENS_OF_WORDS


async def _test(ask: Ask) -> bool:
    said, prompt_tokens = "", None
    try:
        async with asyncio.timeout(_SECONDS), aclosing(ask(sight_test())) as events:
            async for event in events:
                if isinstance(event, Finished):
                    prompt_tokens = event.prompt_tokens
                elif isinstance(event, Delta):
                    said += event.text
    except TimeoutError:
        raise EngineTimeout(_SECONDS) from None
    except (ImagesNotSeen, PromptRefused, ContextExceeded):
        return False  # nothing else in this request could be refused
    return has_seen(said, prompt_tokens)


@functools.cache
def _test_picture() -> ImagePart:
    """Black digits on white, as PNG."""
    left = (_SIDE - (len(NUMBER) * (_COLUMNS + 1) - 1) * _BLOCK) // 2
    top = (_SIDE - _ROWS * _BLOCK) // 2
    blank = b"\xff" * _SIDE
    rows = [blank] * _SIDE
    for row in range(_ROWS):
        line = bytearray(blank)
        for place, digit in enumerate(NUMBER):
            for column in range(_COLUMNS):
                if _DIGITS[digit][row * _COLUMNS + column] == "#":
                    start = left + (place * (_COLUMNS + 1) + column) * _BLOCK
                    line[start : start + _BLOCK] = bytes(_BLOCK)
        rows[top + row * _BLOCK : top + (row + 1) * _BLOCK] = [bytes(line)] * _BLOCK
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\x00" + row for row in rows), 9)
    parts = b"".join(_chunk(kind, data) for kind, data in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")))
    return image_part("image/png", b"\x89PNG\r\n\x1a\n" + parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
