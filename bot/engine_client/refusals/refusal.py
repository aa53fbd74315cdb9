"""What a refusal says, whatever the shape of its body: an error object or string, FastAPI's `detail`, text, or HTML.

Knows shapes of bodies and nothing of their meaning: `overflow` and `optional_fields` read the sentence found here.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_KEYS = (
    *("error", "errors", "message", "msg", "detail", "details", "error_description", "reason", "title", "metadata"),
    *("raw", "error_message", "errorMessage", "Message"),
)
_REPEATED = {"input", "inputs", "request", "body", "messages", "prompt", "ctx", "content", "url", "object", "model"}
_STATUS_KEYS = ("code", "status", "status_code", "statusCode")
_TEXT_CHARS = 2000
_DEPTH = 8
_ITEMS = 8
_HTML = re.compile(r"<!doctype html|<html|<head|<body|<title|<h1", re.IGNORECASE)
_HIDDEN = re.compile(r"<(script|style|svg)\b.*?(</\1\s*>|$)|<!--.*?(-->|$)", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^<>]*>")
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")


@dataclass(slots=True)
class Refusal:
    """One refusal: its sentence, and what its body names in fields of their own."""

    text: str = ""
    codes: set[str] = field(default_factory=set)
    """The values of `code` and `type`."""
    params: list[str] = field(default_factory=list)
    """The request's fields that `param` or `loc` name."""
    status: int = 0
    """The HTTP status that the body names: the only one, where an error comes inside a stream."""
    limit: int = 0
    prompt_tokens: int = 0


def read_refusal(body: object) -> Refusal:
    """The refusal that this body states: parsed JSON, or the text of the response."""
    found = Refusal()
    sentences = list(dict.fromkeys(one_line(sentence[: 4 * _TEXT_CHARS]) for sentence in _sentences(body, found, 0)))
    found.text = ": ".join(sentence for sentence in sentences if sentence)[:_TEXT_CHARS]
    return found


def _sentences(body: object, found: Refusal, depth: int) -> Iterable[str]:
    if depth > _DEPTH:
        return
    if isinstance(body, str):
        yield from _of_text(body, found, depth)
    elif isinstance(body, list | tuple):
        for item in body[:_ITEMS]:
            yield from _sentences(item, found, depth + 1)
    elif isinstance(body, dict):
        found.codes |= {value for key in ("code", "type") if isinstance(value := body.get(key), str)}
        found.status = found.status or next(filter(None, (_status(body.get(key)) for key in _STATUS_KEYS)), 0)
        found.limit = found.limit or tokens(body.get("n_ctx"))
        found.prompt_tokens = found.prompt_tokens or tokens(body.get("n_prompt_tokens"))
        if isinstance(param := body.get("param"), str) and param:
            found.params.append(param)
        said = [sentence for key in _KEYS if key in body for sentence in _sentences(body[key], found, depth + 1)]
        if not any(said):
            said = list(_of_any_keys(body, found, depth))
        if isinstance(location := body.get("loc"), list | tuple) and location:  # pydantic: never its `input`
            path = [str(part)[:40] for part in location[:_ITEMS]]
            found.params += path[-1:] + path[:-1]
            yield f"{'.'.join(path)}: {' '.join(said)}"
        else:
            yield from said


def _of_any_keys(body: dict[Any, object], found: Refusal, depth: int) -> Iterable[str]:
    """Whatever a body without the usual keys says, except what it may repeat of the request."""
    for key, value in list(body.items())[:_ITEMS]:
        if str(key).lower() not in _REPEATED:
            said = " ".join(_sentences(value, found, depth + 1))
            if said:
                yield f"{str(key)[:40]}: {said}"


def _of_text(text: str, found: Refusal, depth: int) -> Iterable[str]:
    text = text.strip()
    if text[:1] in {"{", "["}:
        try:
            yield from _sentences(json.loads(text), found, depth + 1)
            return
        except (ValueError, RecursionError):
            pass
    if _HTML.search(text[:_TEXT_CHARS]):
        text = html.unescape(_TAG.sub(" ", _HIDDEN.sub(" ", text)))
    yield text


def tokens(value: object) -> int:
    """A number of tokens as a server may state it, or 0."""
    return value if type(value) is int and 0 < value < 10**9 else 0


def _status(value: object) -> int:
    if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
        value = int(value)
    return value if type(value) is int and 400 <= value < 600 else 0


def one_line(text: str) -> str:
    """The text without control characters and line breaks."""
    return " ".join(_INVISIBLE.sub(" ", text).split())
