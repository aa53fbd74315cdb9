"""The CDN of the fake Discord: serves attachments under signed links that expire, and can be told to misbehave.

Knows links, bytes and HTTP. Knows nothing of messages.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from aiohttp import web

from tests.fakes.discord.messages import Attachment

LINK_LIFETIME = 24 * 3600  # seconds
GONE = "This content is no longer available."


@dataclass(slots=True, eq=False)
class CdnFault:
    """How the next `times` downloads fail; of one attachment, or of any."""

    attachment: Attachment | None = None
    times: int = 1
    status: int = 0
    trickle: float | None = None  # one byte each so many seconds, without end
    stall: bool = False  # the headers, then nothing
    num_bytes: int | None = None  # as many bytes, whatever the attachment says
    claim: int | None = None  # this Content-Length; with fewer bytes the connection breaks
    content_type: str | None = None
    redirect: str = ""
    delay: float = 0.0

    def matches(self, attachment: Attachment) -> bool:
        if self.times <= 0 or self.attachment not in (None, attachment):
            return False
        self.times -= 1
        return True


class Cdn:
    """All attachments that were ever sent, by id."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.base = ""
        self.attachments: dict[int, Attachment] = {}
        self.faults: list[CdnFault] = []
        self.downloads: list[Attachment] = []  # each successful request
        self.num_bytes_sent = 0
        self._key = secrets.token_bytes(16)

    def fail(self, attachment: Attachment | None = None, *, times: int = 1, **effect: object) -> CdnFault:
        """Make the next downloads fail; the fields of `CdnFault` say how."""
        fault = CdnFault(attachment, times, **effect)  # type: ignore[arg-type]
        self.faults.append(fault)
        return fault

    def host(self, attachment: Attachment, channel_id: int) -> None:
        """Serve an attachment from now on."""
        self.attachments[attachment.id] = attachment
        folder = "ephemeral-attachments" if attachment.ephemeral else "attachments"
        path = f"/{folder}/{channel_id}/{attachment.id}/{attachment.name}"
        attachment.sign = lambda file: self._signed(path)

    def _signed(self, path: str) -> str:
        issued = int(self.now())
        expires = issued + LINK_LIFETIME
        return f"{self.base}{path}?ex={expires:x}&is={issued:x}&hm={self._mac(path, expires, issued)}&"

    def _mac(self, path: str, expires: int, issued: int) -> str:
        return hmac.new(self._key, f"{path} {expires:x} {issued:x}".encode(), hashlib.sha256).hexdigest()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one download. No authorisation: the link is the key."""
        query = request.query
        attachment = self.attachments.get(int(request.match_info["attachment_id"]))
        try:
            expires, issued = int(query["ex"], 16), int(query["is"], 16)
        except (KeyError, ValueError):
            expires = issued = 0
        valid = hmac.compare_digest(self._mac(request.path, expires, issued), query.get("hm", ""))
        if attachment is None or not valid or self.now() > expires:
            return web.Response(status=404, text=GONE)
        fault = next((fault for fault in self.faults if fault.matches(attachment)), CdnFault())
        await asyncio.sleep(fault.delay)
        if fault.redirect:
            return web.Response(status=302, headers={"Location": fault.redirect})
        if fault.status:
            return web.Response(status=fault.status, text="error")
        self.downloads.append(attachment)
        kind = fault.content_type or attachment.json()["content_type"] or "application/octet-stream"
        headers = {"Content-Type": kind, "ETag": f'"{attachment.id}"', "Cache-Control": "private, max-age=2592000"}
        response = web.StreamResponse(headers=headers)
        endless = fault.trickle is not None or fault.stall
        size = fault.claim if fault.claim is not None else fault.num_bytes
        if not endless:
            response.content_length = len(attachment.content) if size is None else size
        await response.prepare(request)
        try:
            async for part in _parts(attachment.content, fault):
                await response.write(part)
                self.num_bytes_sent += len(part)
        except (ConnectionError, asyncio.CancelledError):
            return response  # the client hung up
        if fault.claim is not None and request.transport:
            request.transport.abort()
        return response


async def _parts(content: bytes, fault: CdnFault) -> AsyncIterator[bytes]:
    if fault.stall:
        await asyncio.sleep(3600)
    while fault.trickle is not None:
        yield b"."
        await asyncio.sleep(fault.trickle)
    total = len(content) if fault.num_bytes is None else fault.num_bytes
    for start in range(0, total, 65536):
        length = min(65536, total - start)
        yield content[start : start + length].ljust(length, b"\0")
