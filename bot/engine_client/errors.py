"""Translates the errors of an OpenAI-compatible server into the bot's own.

Such servers agree on little here, so some fields and numbers are parsed out of English sentences. Knows the wordings of
OpenAI, vLLM, llama.cpp's server and our own engine. Sends nothing.
"""

from __future__ import annotations

import math
import re
from typing import Any

import httpx2
import openai

from bot.errors import BotError, Busy, EngineRefused, EngineUnavailable

_TOO_LONG = re.compile(
    r"context[ _](length|size|window)|maximum (model|input) length|prompt is too long|too many tokens", re.IGNORECASE
)
_CODES = {"context_length_exceeded", "exceed_context_size_error"}
_LIMIT = re.compile(
    r"(?:context (?:length|size|window)(?: is| of)?|limit(?: is| of)?|n_ctx)\D{0,3}(\d+)",
    re.IGNORECASE,
)
_PROMPT_TOKENS = re.compile(
    r"(\d+)(?: tokens)? (?:in|from) the (?:messages|input|prompt)|at least (\d+)", re.IGNORECASE
)
_NUMBER = re.compile(r"\d+")
_UNKNOWN_FIELD = re.compile(
    r"unrecogni[sz]ed|unknown|unsupported|not supported|extra|not permitted|unexpected|invalid|additional",
    re.IGNORECASE,
)


class ContextExceeded(Exception):
    """The prompt does not fit into the context. The numbers of tokens are 0 if the server does not name them."""

    def __init__(self, context_length: int = 0, num_prompt_tokens: int = 0) -> None:
        super().__init__(f"the prompt takes {num_prompt_tokens} of {context_length} tokens")
        self.context_length = context_length
        self.num_prompt_tokens = num_prompt_tokens


def translate(error: Exception) -> BotError | ContextExceeded | Exception:
    """The bot's error for an error of the server or the connection; any other error is returned unchanged."""
    if isinstance(error, BotError | ContextExceeded):
        return error
    if isinstance(error, openai.APIStatusError):
        return _refusal(error)
    if isinstance(error, openai.APIConnectionError):
        return EngineUnavailable(_reason(error.__cause__ or error))  # its own message is only "Connection error."
    if isinstance(error, openai.APIError):  # an error event inside the stream
        body = error.body if isinstance(error.body, dict) else {"message": error.body or error.message}
        return _exceeded(body, error.message) or EngineUnavailable(_reason(error, str(body.get("message"))))
    if isinstance(error, httpx2.HTTPError | httpx2.StreamError | OSError | TimeoutError):
        return EngineUnavailable(_reason(error))
    if isinstance(error, openai.OpenAIError | ValueError):  # the answer was not JSON, or not of this protocol
        return EngineRefused(_reason(error))
    return error


def _refusal(error: openai.APIStatusError) -> BotError | ContextExceeded:
    body = error.body if isinstance(error.body, dict) else {}
    if isinstance(body.get("error"), dict):
        body = body["error"]
    if error.status_code in {400, 413, 422} and (exceeded := _exceeded(body, error.message)) is not None:
        return exceeded
    if error.status_code == 429:
        return Busy(_retry_after(error.response.headers.get("Retry-After")))
    if error.status_code >= 500 or error.status_code == 408:
        return EngineUnavailable(_reason(error))
    return EngineRefused(_reason(error))


def _exceeded(body: dict[str, Any], message: str) -> ContextExceeded | None:
    text = str(body.get("message") or message)
    if not ({body.get("code"), body.get("type")} & _CODES or _TOO_LONG.search(text)):
        return None
    limit, got = body.get("n_ctx"), body.get("n_prompt_tokens")
    if isinstance(limit, int) and isinstance(got, int):
        return ContextExceeded(limit, got)
    return ContextExceeded(*_numbers(text))


def _numbers(text: str) -> tuple[int, int]:
    """(context, prompt) in tokens from a sentence that names both in either order."""
    text = re.sub(r"(?<=\d)[,_](?=\d{3})", "", text)
    found = _LIMIT.search(text)
    prompt = _PROMPT_TOKENS.search(text)
    numbers = [int(number) for number in _NUMBER.findall(text)]
    if not numbers:
        return 0, 0
    limit = int(found[1]) if found else min(numbers)
    if prompt is not None:
        return limit, int(prompt[1] or prompt[2])
    over = [number for number in numbers if number != limit]
    return limit, max(over, default=0)


def refused_field(error: openai.APIStatusError, sent: set[str]) -> str | None:
    """The extra field among those in `sent` that the server rejects, or None if it complains of something else."""
    if isinstance(translate(error), ContextExceeded):
        return None
    body = error.body if isinstance(error.body, dict) else {}
    text = f"{error.message} {body}"
    if not _UNKNOWN_FIELD.search(text):
        return None
    for name in ("cache_salt", "stream_options", "user", "max_tokens"):
        # `user` is also a word and a role, so it counts only in quotes or after a colon.
        named = rf"""['"`.]{name}['"`]|:\s*{name}\b""" if name == "user" else rf"\b{name}\b"
        if name in sent and (body.get("param") == name or re.search(named, text)):
            return name
    return None


def _retry_after(value: str | None) -> float | None:
    try:
        seconds = float(value or "")
    except ValueError:  # an HTTP date: not supported
        return None
    return seconds if math.isfinite(seconds) and 0 < seconds <= 3600 else None


def _reason(error: BaseException, message: str | None = None) -> str:
    return " ".join(f"{type(error).__name__}: {message or error}".split())[:300]
