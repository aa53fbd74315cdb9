"""What one event of a stream contains: chunks as JSON objects, an error, a sign of life, or the end.

Knows the payloads that servers send besides chunks. Pure functions; knows neither lines nor what a chunk means.
"""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai

from bot.errors import EngineUnreadable

Event = dict[str, Any] | None

_ENDS = {b"done", b"end", b"complete", b"completed", b"close", b"finish"}
_KEEPALIVES = (b"ping", b"heartbeat", b"keep-alive", b"keepalive", b"keep_alive")
_SUCCESS = {"0", "200"}
_DECODER = json.JSONDecoder(strict=False)


def is_done(line: bytes) -> bool:
    """Whether this is the mark that ends a stream, as servers spell it."""
    return line.lstrip(b'" \t')[:6].upper() == b"[DONE]"


def is_end(name: bytes) -> bool:
    """Whether an event of this name ends the stream."""
    return name in _ENDS


def is_keepalive(name: bytes, payload: bytes) -> bool:
    """Whether an event says only that the server lives."""
    payload = payload.strip()
    return not payload or payload.startswith(b":") or name.startswith(_KEEPALIVES)


def parse_events(payload: bytes, request: httpx2.Request) -> list[Event]:
    """The JSON objects of one event, nearly always one. Raises EngineUnreadable, or openai.APIError for an error."""
    try:
        # A character that is cut in two is replaced rather than the reply lost; so is a bare control character.
        found = _DECODER.decode(payload.decode(errors="replace"))
    except (ValueError, RecursionError) as error:
        raise EngineUnreadable(f"an event that is no JSON ({type(error).__name__})") from None
    if found is None:
        return [None]
    events: list[Event] = []
    for event in found if isinstance(found, list) else [found]:
        if not isinstance(event, dict):
            raise EngineUnreadable(f"an event that is no JSON object but {type(event).__name__}")
        if _is_error(event):
            raise error_event(request, event.get("error") or event)
        events.append(event)
    return events


def error_event(request: httpx2.Request, body: object) -> openai.APIError:
    """The exception for an error that came inside the stream."""
    return openai.APIError("an error event", request, body=body)


def _is_error(event: dict[str, Any]) -> bool:
    error = event.get("error")
    if isinstance(error, dict) and (not any(error.values()) or _is_success(error)):
        return False
    return bool(error) or "error" in (event.get("object"), event.get("type"))


def _is_success(error: dict[str, Any]) -> bool:
    return str(error.get("code")) in _SUCCESS and not error.get("message")
