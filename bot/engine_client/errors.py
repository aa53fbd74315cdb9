"""Translates the errors of an OpenAI-compatible server into the bot's own.

Knows status codes, and which refusals are about the prompt's length; `overflow` knows the wordings. Sends nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

import httpx2
import openai

from bot.engine_client.images.refusal import refuses_images
from bot.engine_client.log_text import for_log
from bot.engine_client.refusals.overflow import overflow
from bot.engine_client.refusals.refusal import Refusal, read_refusal
from bot.errors import BotError, Busy, EngineRefused, EngineUnavailable, EngineUnreadable, ImagesNotSeen

_ABOUT_THE_PROMPT = {400, 413, 422}
_MAY_OVERFLOW = _ABOUT_THE_PROMPT | {500, 0}
"""Ollama and older servers of llama.cpp answer an overlong prompt with 500, LM Studio inside the stream."""
_TOO_LARGE_EVER = re.compile(r"request too large|tokens must be reduced|reduce your message size", re.IGNORECASE)

_MAY_REFUSE_IMAGES = _ABOUT_THE_PROMPT | {404, 415, 500, 501, 0}
"""OpenRouter finds no provider with 404, llama.cpp answers 500."""


class ContextExceeded(Exception):
    """The prompt does not fit into the context. The numbers of tokens are 0 if the server does not name them."""

    def __init__(self, context_length: int = 0, num_prompt_tokens: int = 0) -> None:
        super().__init__(f"the prompt takes {num_prompt_tokens} of {context_length} tokens")
        self.context_length = context_length
        self.num_prompt_tokens = num_prompt_tokens


class PromptRefused(EngineRefused):
    """The server turned the request down for a reason that is not understood; a shorter prompt may please it."""


def translate(
    error: Exception, sent: Sequence[str] = (), *, in_reply: bool = False, has_images: bool = False
) -> BotError | ContextExceeded | Exception:
    """The bot's error for an error of the server or the connection; any other error is returned unchanged.

    `sent` is what must not appear in the log, should the server repeat it: the texts of the prompt, and keys.
    `in_reply`: the reply has begun, so that no error is about the request any more. `has_images`: the refusal may be
    about the pictures of the prompt.
    """
    if isinstance(error, BotError | ContextExceeded):
        return error
    if isinstance(error, openai.APIStatusError):
        return _refused(error, sent, has_images)
    if isinstance(error, openai.APIConnectionError):  # its own message is only "Connection error."
        return EngineUnavailable(_reason(error.__cause__ or error, sent))
    if isinstance(error, openai.APIError):  # an error event inside the stream
        refusal = refusal_of(error)
        status = 0 if in_reply else refusal.status
        reason = f"an error inside the stream: {for_log(refusal.text, sent)}"
        return _of_status(refusal, status, reason, None, has_images)
    if isinstance(error, httpx2.DecodingError):
        return EngineUnreadable(_reason(error, sent))
    if isinstance(error, httpx2.HTTPError | httpx2.StreamError | OSError | TimeoutError):
        return EngineUnavailable(_reason(error, sent))
    if isinstance(error, openai.OpenAIError | ValueError | RecursionError):  # not JSON, or not of this protocol
        return EngineUnreadable(_reason(error, sent))
    return error


def refusal_of(error: openai.APIError) -> Refusal:
    """What the server's answer says, or an error event of its stream."""
    if not isinstance(error, openai.APIStatusError):
        return read_refusal(error.body or error.message)
    text = error.response.text if error.response.is_closed or error.response.is_stream_consumed else ""
    body: object = text or error.body or error.message
    if text:
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            body = text
    refusal = read_refusal(body)
    if not refusal.text:
        refusal.text = "the server gave no reason"
    return refusal


def _refused(error: openai.APIStatusError, sent: Sequence[str], has_images: bool) -> BotError | ContextExceeded:
    refusal, status = refusal_of(error), error.status_code
    retry_after = _retry_after(error.response.headers.get("Retry-After"))
    return _of_status(refusal, status, f"HTTP {status}: {for_log(refusal.text, sent)}", retry_after, has_images)


def _of_status(
    refusal: Refusal, status: int, reason: str, retry_after: float | None, has_images: bool
) -> BotError | ContextExceeded:
    """The error for a refusal with this HTTP status, 0 if it named none."""
    if status in _MAY_OVERFLOW and (numbers := overflow(refusal)) is not None:
        return ContextExceeded(*numbers)
    if status == 429:
        # Larger than a whole minute's quota: it will not do later either, but with fewer pairs.
        return ContextExceeded() if _TOO_LARGE_EVER.search(refusal.text) else Busy(retry_after)
    if has_images and status in _MAY_REFUSE_IMAGES and refuses_images(refusal):
        return ImagesNotSeen(reason)
    if status >= 500 or status in {0, 408}:
        return EngineUnavailable(reason)
    return PromptRefused(reason) if status in _ABOUT_THE_PROMPT else EngineRefused(reason)


def _retry_after(value: str | None) -> float | None:
    try:
        seconds = float(value or "")
    except ValueError:  # an HTTP date: not supported
        return None
    return seconds if math.isfinite(seconds) and 0 < seconds <= 3600 else None


def _reason(error: BaseException, sent: Sequence[str]) -> str:
    return for_log(f"{type(error).__name__}: {error}", sent)
