"""Loads a file from Discord's CDN, and from nowhere else, into memory only.

Every byte is counted as it comes: sizes and types that a server or a message names are claims. Knows hosts and limits;
does not know what is in the file, but lets the caller look at its beginning and give up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

import aiohttp
import structlog

from bot.attachments import reasons
from bot.attachments.kinds import HEAD_BYTES
from bot.attachments.types import FileRefused

log = structlog.get_logger(__name__)

CDN_HOSTS = frozenset({"cdn.discordapp.com", "media.discordapp.net"})
_TOTAL_SECONDS = 30.0
_CONNECT_SECONDS = 5.0
_SILENCE_SECONDS = 10.0
_RETRY_SECONDS = 0.5
_PIECE_BYTES = 64 << 10
_REDIRECTS = 3
_GONE = {401, 403, 404, 410}
"""A deleted file, or a link that has expired: Discord's links are signed and last a day."""


class Downloader:
    """Loads files. `cdn_url` replaces Discord's CDN, for a proxy or a test; then its own host is the only one."""

    def __init__(self, cdn_url: str | None = None, *, total_seconds: float = _TOTAL_SECONDS) -> None:
        self._base = cdn_url.rstrip("/") if cdn_url else None
        self._total_seconds = total_seconds
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def load(self, url: str, limit: int, check_head: Callable[[bytes], int]) -> bytes:
        """The file at `url`, of at most `limit` bytes.

        `check_head` gets its first bytes; it returns the limit for such a file, or raises FileRefused. Raises
        FileRefused for whatever goes wrong, with a reason for the member; the log has the operator's.
        """
        target = self._allowed(url)
        try:
            async with asyncio.timeout(self._total_seconds):
                try:
                    return await self._load(target, limit, check_head)
                except (aiohttp.ClientConnectionError, _ServerFailed) as error:
                    log.info("a file is loaded once more", error=type(error).__name__)
                    await asyncio.sleep(_RETRY_SECONDS)
                    return await self._load(target, limit, check_head)
        except TimeoutError:  # of ours or aiohttp's
            log.warning("a file took too long to load")
            raise FileRefused(reasons.TOO_SLOW) from None
        except aiohttp.ClientPayloadError:
            log.warning("a file came incomplete")
            raise FileRefused(reasons.INCOMPLETE) from None
        except (aiohttp.ClientError, _ServerFailed, OSError, ValueError) as error:
            reason = str(error) if isinstance(error, _ServerFailed) else type(error).__name__
            log.warning("a file could not be loaded", reason=reason)  # an error's text may have the URL, with a name
            raise FileRefused(reasons.NOT_LOADED) from None

    async def _load(self, url: str, limit: int, check_head: Callable[[bytes], int]) -> bytes:
        session = self._opened()
        for _ in range(_REDIRECTS + 1):
            async with session.get(url, allow_redirects=False) as response:
                if response.status in {301, 302, 303, 307, 308}:
                    url = self._allowed(urljoin(url, response.headers.get("Location", "")))
                    continue
                if response.status in _GONE:
                    raise FileRefused(reasons.GONE)
                if response.status >= 500:
                    raise _ServerFailed(f"HTTP {response.status}")
                if response.status != 200 or response.headers.get("Content-Encoding", "identity") != "identity":
                    log.warning("the CDN gave another answer", status=response.status)
                    raise FileRefused(reasons.NOT_LOADED)
                return await _read(response, limit, check_head)
        raise _ServerFailed("too many redirects")

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS),
                headers={"Accept-Encoding": "identity"},
                auto_decompress=False,  # a small body must not become a large one
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _allowed(self, url: str) -> str:
        """The address to load from. Raises FileRefused for any other host than the CDN's."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise FileRefused(reasons.FOREIGN_HOST) from None
        is_cdn = parts.scheme == "https" and parts.hostname in CDN_HOSTS and port in {None, 443}
        if is_cdn and "@" not in parts.netloc:
            if self._base is None:
                return url
            return f"{self._base}{parts.path}{'?' if parts.query else ''}{parts.query}"
        if self._base is not None and _origin(url) == _origin(self._base):
            return url
        raise FileRefused(reasons.FOREIGN_HOST)


class _ServerFailed(Exception):
    """The server has a problem of its own, perhaps for a moment only."""


async def _read(response: aiohttp.ClientResponse, limit: int, check_head: Callable[[bytes], int]) -> bytes:
    data = bytearray()
    checked = False
    async for piece in response.content.iter_chunked(_PIECE_BYTES):
        data += piece
        if not checked and len(data) >= HEAD_BYTES:
            limit, checked = min(limit, check_head(bytes(data[:HEAD_BYTES]))), True
        if len(data) > limit:
            raise FileRefused(reasons.too_large(None, limit))
    if not checked:
        limit = min(limit, check_head(bytes(data)))
    if len(data) > limit:
        raise FileRefused(reasons.too_large(len(data), limit))
    return bytes(data)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc
