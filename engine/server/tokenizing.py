"""Texts and dialogs of requests to token ids, without keeping the event loop from other requests.

Short texts are encoded at once. Longer ones go to another thread; long ones wait there for each other, so that their
memory does not add up, and a few of them wait at most. A text that cannot fit the context is refused before it is
encoded. Knows the loaded model; submits nothing.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from engine.errors import InvalidDialog
from engine.server.protocol.errors import RequestError

if TYPE_CHECKING:
    from engine.chat_format import Message
    from engine.server.loaded_model import LoadedModel

MAX_INLINE_CHARS = 4096  # a longer text is encoded on another thread
MESSAGE_CHARS = 64  # what the marks and the header of a message take, compared with text
LONG_TEXT_CHARS = 1 << 16  # a longer text waits for others of its kind
MAX_LONG_WAITING = 64  # texts; more are refused with 429
MIN_REFUSED_BYTES = 1 << 17  # a shorter text is encoded even if it cannot fit, so that the error has its exact length


class PromptTokenization:
    """Encodes the prompts of a server's requests. Belongs to one event loop."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "tokenize-long")
        self._medium_executor = ThreadPoolExecutor(2, "tokenize")  # more would only wait for Python's lock
        self._num_long = 0

    async def dialog(
        self, loaded: "LoadedModel", messages: "Sequence[Message]", *, continue_last: bool = False
    ) -> list[int]:
        """The prompt for the reply to the dialog. Raises RequestError."""
        texts = [message["content"] for message in messages]
        try:
            return await self._run(
                loaded, texts, "messages", lambda: loaded.chat.encode(messages, continue_last=continue_last)
            )
        except InvalidDialog as error:
            param = "messages" if error.index is None else f"messages[{error.index}]"
            raise RequestError(f"{error}.", param=param, code="invalid_dialog") from error

    async def text(self, loaded: "LoadedModel", text: str, *, special_tokens: bool) -> list[int]:
        """The ids of a prompt. `special_tokens`: with what the tokenizer puts before one. Raises RequestError."""
        ids = await self._run(loaded, [text], "prompt", lambda: loaded.encoder.encode(text))
        return _with_bos(loaded, ids) if special_tokens else ids

    async def _run(
        self, loaded: "LoadedModel", texts: Sequence[str], param: str, encode: Callable[[], list[int]]
    ) -> list[int]:
        """The result of `encode`, which encodes the texts."""
        size = sum(map(len, texts)) + MESSAGE_CHARS * len(texts)
        if size <= MAX_INLINE_CHARS:
            return encode()
        loop = asyncio.get_running_loop()
        if size <= LONG_TEXT_CHARS:
            return await loop.run_in_executor(self._medium_executor, encode)
        await loop.run_in_executor(self._medium_executor, _refuse_if_far_too_long, loaded, texts, param)
        if self._num_long >= MAX_LONG_WAITING:
            message = "Too many long prompts are being tokenized."
            raise RequestError(
                message, status=429, error_type="rate_limit_error", code="rate_limit_exceeded", retry_after=5
            )
        self._num_long += 1
        try:
            return await loop.run_in_executor(self._executor, encode)
        finally:
            self._num_long -= 1


def context_length_exceeded(limit: int, got: int, param: str, *, exact: bool = True) -> RequestError:
    """The error for a prompt of `got` tokens, or of more if not `exact`."""
    count = f"{got}" if exact else f"at least {got}"
    return RequestError(
        f"This model's maximum context length is {limit} tokens. However, your {param} resulted in {count} tokens, "
        f"which leaves no room for a reply. Please reduce the length of the {param}.",
        param=param,
        code="context_length_exceeded",
    )


def _refuse_if_far_too_long(loaded: "LoadedModel", texts: Sequence[str], param: str) -> None:
    # Some chat formats strip the texts.
    num_bytes = sum(len(text.strip().encode(errors="replace")) for text in texts)
    num_tokens = loaded.encoder.min_tokens(num_bytes)
    if num_bytes >= MIN_REFUSED_BYTES and num_tokens >= loaded.max_context:
        raise context_length_exceeded(loaded.max_context, num_tokens, param, exact=False)


def _with_bos(loaded: "LoadedModel", ids: list[int]) -> list[int]:
    """The one place that decides about the beginning-of-text token of plain prompts."""
    bos = loaded.tokenizer.bos_id
    return [bos, *ids] if bos is not None and loaded.tokenizer.adds_bos else ids
