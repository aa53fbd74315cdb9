"""Reads what a form or an address sends: few short fields, each once, as text that the database can compare."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request

from bot.admin.access.guard import MAX_BODY

_MAX_FIELDS = 20
MAX_FIELD = 1000
"""Characters of a field."""


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form. Raises HTTPException 400 or 413."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "A form is expected.")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise HTTPException(413, "The form is too large.")
    return _fields(body.decode("utf-8", "replace"))


def read_query(request: Request) -> dict[str, str]:
    """The fields of the address. Raises HTTPException 400."""
    return _fields(request.url.query)


def _fields(encoded: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(encoded, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="replace")
    except ValueError:
        raise HTTPException(400, "There are too many fields.") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise HTTPException(400, "A field was sent twice.")
    for name, value in fields.items():
        if "\x00" in name + value or len(name) > 50 or len(value) > MAX_FIELD:
            raise HTTPException(400, "A field is too long, or has a character that no text has.")
    return fields
