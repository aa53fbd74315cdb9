"""What a server's refusal means. Servers of the OpenAI kind agree on little here, so the numbers are read out of prose.

Knows the wordings of OpenAI, vLLM, llama.cpp's server and our own engine. Sends nothing.
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
_IN_MESSAGES = re.compile(r"(\d+)(?: tokens)? (?:in|from) the (?:messages|input|prompt)|at least (\d+)", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")
_UNKNOWN_FIELD = re.compile(
    r"unrecogni[sz]ed|unknown|unsupported|not supported|extra|not permitted|unexpected|invalid|additional",
    re.IGNORECASE,
)


class ContextExceeded(Exception):
    """The server says that the prompt does not fit. The numbers are 0 where it does not name them."""

    def __init__(self, limit: int = 0, got: int = 0) -> None:
        super().__init__(f"the prompt takes {got} of {limit} tokens")
        self.limit = limit
        self.got = got


def translate(error: Exception) -> BotError | ContextExceeded | Exception:
    """The same failure in our own terms; an error that is none of the server's is given back as it is."""
    if isinstance(error, BotError | ContextExceeded):
        return error
    if isinstance(error, openai.APIStatusError):
        return _refusal(error)
    if isinstance(error, openai.APIError):  # no connection, or an error event inside the stream
        body = error.body if isinstance(error.body, dict) else {}
        return _exceeded(body, error.message) or EngineUnavailable(_reason(error))
    if isinstance(error, httpx2.HTTPError | httpx2.StreamError | OSError | TimeoutError):
        return EngineUnavailable(_reason(error))
    if isinstance(error, openai.OpenAIError | ValueError):  # what came was no JSON, or not of this protocol
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
    """(limit, prompt tokens) out of a sentence that names both, in either order."""
    text = re.sub(r"(?<=\d)[,_](?=\d{3})", "", text)
    found = _LIMIT.search(text)
    prompt = _IN_MESSAGES.search(text)
    numbers = [int(number) for number in _NUMBER.findall(text)]
    if not numbers:
        return 0, 0
    limit = int(found[1]) if found else min(numbers)
    if prompt is not None:
        return limit, int(prompt[1] or prompt[2])
    over = [number for number in numbers if number != limit]
    return limit, max(over, default=0)


def refused_field(error: openai.APIStatusError, sent: set[str]) -> str | None:
    """Which of the extra fields that we sent the server does not know, if that is its complaint."""
    if isinstance(translate(error), ContextExceeded):
        return None
    body = error.body if isinstance(error.body, dict) else {}
    text = f"{error.message} {body}"
    if not _UNKNOWN_FIELD.search(text):
        return None
    for name in ("cache_salt", "stream_options", "user", "max_tokens"):
        # `user` is also a word and a role: it must be quoted or follow a colon.
        named = rf"""['"`.]{name}['"`]|:\s*{name}\b""" if name == "user" else rf"\b{name}\b"
        if name in sent and (body.get("param") == name or re.search(named, text)):
            return name
    return None


def _retry_after(value: str | None) -> float | None:
    try:
        seconds = float(value or "")
    except ValueError:  # an HTTP date: not worth a clock
        return None
    return seconds if math.isfinite(seconds) and 0 < seconds <= 3600 else None


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
