"""Reads the body of a request: bounded in size, and in the time that a client may take to send it."""

import asyncio

from starlette.requests import Request

from engine.server.protocol.errors import RequestError

# A body must have come within BODY_GRACE seconds, and one more second for each MIN_BYTES_PER_SECOND of it.
BODY_GRACE = 15.0
MIN_BYTES_PER_SECOND = 1 << 14


async def read_body(request: Request, limit: int) -> bytes:
    """The body. Raises RequestError: 413 before more than `limit` bytes are in memory, 408 if they come too slowly."""
    too_large = RequestError(f"The body may have at most {limit} bytes.", code="body_too_large", status=413)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    body = bytearray()
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        async with asyncio.timeout(BODY_GRACE) as deadline:
            async for piece in request.stream():
                body += piece
                if len(body) > limit:
                    raise too_large
                deadline.reschedule(started + BODY_GRACE + len(body) / MIN_BYTES_PER_SECOND)
    except TimeoutError:
        raise RequestError("The body did not come in time.", code="request_timeout", status=408, close=True) from None
    return bytes(body)
