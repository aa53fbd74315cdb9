"""The HTTP connections to one server: over TCP or a Unix socket, with or without an API key."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx2
import openai

from bot.engine_client.http.aiohttp_transport import AiohttpTransport
from bot.engine_client.http.bounded_http import BoundedClient

CONNECT_SECONDS = 5.0
SMALL_CALL_SECONDS = 15.0
IDLE_SECONDS = 5.0
"""How long a connection is kept for the next request."""


class Transport:
    """One connection pool, used by openai's client and for the endpoints that OpenAI does not define."""

    def __init__(self, base_url: str, api_key: str | None = None, *, uds: str | None = None, name: str = "") -> None:
        """`name`: which of several servers this is, for the log."""
        self.log_fields = {"replica": name} if name else {}
        base_url = base_url.rstrip("/")
        # The environment's proxies are for other machines.
        is_local = uds is not None or urlsplit(base_url).hostname in {"127.0.0.1", "::1", "localhost"}
        self.http = BoundedClient(
            transport=AiohttpTransport(uds=uds, idle_seconds=IDLE_SECONDS, environment_proxies=not is_local),
            timeout=httpx2.Timeout(SMALL_CALL_SECONDS, connect=CONNECT_SECONDS, pool=None),
        )
        self.openai = openai.AsyncOpenAI(
            base_url=base_url, api_key=api_key or "none", http_client=self.http, max_retries=0
        )
        self._root = base_url.removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def close(self) -> None:
        """Close every connection."""
        await self.http.aclose()

    async def get(self, path: str, *, timeout: float = SMALL_CALL_SECONDS) -> httpx2.Response:
        """GET a path relative to the server's root, whatever the status. Raises httpx2.HTTPError or OSError."""
        return await self.http.get(f"{self._root}{path}", headers=self._headers, timeout=timeout)

    async def post(self, path: str, body: object) -> httpx2.Response:
        """POST JSON to a path relative to the server's root, whatever the status. Raises as `get`."""
        return await self.http.post(f"{self._root}{path}", json=body, headers=self._headers)

    async def list_models(self) -> httpx2.Response:
        """GET the list of models, whatever the status. Raises as `get`."""
        return await self.http.get(f"{self.openai.base_url}models", headers=self._headers)
