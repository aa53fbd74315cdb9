"""httpx2's requests on aiohttp's connections: its parser is compiled, and a reply that is streamed costs half the CPU.

Knows connections, timeouts and what each error means for httpx2. Reads bodies as they were sent, packed or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import urllib.request
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace

import aiohttp
import httpx2
import yarl

_HEADER_BYTES = 64 << 10
_PIECE_BYTES = 64 << 10
BODY_ENDED = "guildllama.body_ended"
"""An extension of responses: a future that is done once the whole body has arrived, read or not."""


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """A pool of connections to any server, or to the one behind a Unix socket. Keeps idle ones for a while."""

    def __init__(self, *, uds: str | None = None, idle_seconds: float = 5.0, environment_proxies: bool = False) -> None:
        self._uds = uds
        self._idle_seconds = idle_seconds
        self._environment_proxies = environment_proxies
        self._session: aiohttp.ClientSession | None = None
        self._ssl: ssl.SSLContext | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; once more if the server had closed the kept connection that it went out on."""
        body = await request.aread()
        with _translated(request):
            connection = _Connection()
            try:
                response = await self._send(request, body, connection)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                # No byte of a response came. On a new connection the server may have begun to answer; on a kept one it
                # most likely never saw the request: servers close idle connections at any moment.
                if connection.is_new:
                    raise
                response = await self._send(request, body, connection)
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        response.content.on_eof(lambda: None if ended.done() else ended.set_result(None))
        return httpx2.Response(
            response.status,
            headers=response.raw_headers,
            stream=_Body(response, request),
            request=request,
            extensions={BODY_ENDED: ended},
        )

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    async def _send(self, request: httpx2.Request, body: bytes, connection: _Connection) -> aiohttp.ClientResponse:
        timeout = request.extensions.get("timeout", {})
        # Credentials are in a header already. To copy a URL takes as long as to parse ten.
        url = request.url.copy_with(userinfo=b"") if request.url.userinfo else request.url
        return await self._opened().request(
            request.method,
            yarl.URL(str(url), encoded=True),
            headers=request.headers.multi_items(),
            data=body or None,
            allow_redirects=False,
            proxy=self._proxy(request.url),
            timeout=aiohttp.ClientTimeout(
                total=None, connect=timeout.get("connect"), sock_read=timeout.get("read"), ceil_threshold=float("inf")
            ),
            trace_request_ctx=connection,
            ssl=self._certificates(url),
        )

    def _opened(self) -> aiohttp.ClientSession:
        """The session, made at the first request: it belongs to the running event loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=self._connector(),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
                max_line_size=_HEADER_BYTES,
                max_field_size=_HEADER_BYTES,
                trace_configs=[_traced()],
            )
        return self._session

    def _connector(self) -> aiohttp.BaseConnector:
        if self._uds is not None:
            return aiohttp.UnixConnector(self._uds, limit=0, keepalive_timeout=self._idle_seconds)
        return aiohttp.TCPConnector(limit=0, keepalive_timeout=self._idle_seconds)

    def _certificates(self, url: httpx2.URL) -> ssl.SSLContext | bool:
        """How a server's certificate is checked. It takes a tenth of a second to load what is trusted, once."""
        if url.scheme == "https" and self._ssl is None:
            self._ssl = httpx2.create_ssl_context()
        return self._ssl or True

    def _proxy(self, url: httpx2.URL) -> str | None:
        if not self._environment_proxies or urllib.request.proxy_bypass(url.host):
            return None
        proxies = urllib.request.getproxies()
        return proxies.get(url.scheme) or proxies.get("all")


class _Connection:
    """Whether the last request that was sent opened a connection of its own."""

    is_new = False


def _traced() -> aiohttp.TraceConfig:
    async def on_create(session: object, context: SimpleNamespace, parameters: object) -> None:
        context.trace_request_ctx.is_new = True

    config = aiohttp.TraceConfig()
    config.on_connection_create_start.append(on_create)
    return config


class _Body(httpx2.AsyncByteStream):
    """What came of a body since the last look, piece by piece. Closing it early closes the connection."""

    def __init__(self, response: aiohttp.ClientResponse, request: httpx2.Request) -> None:
        self._response = response
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content = self._response.content
        with _translated(self._request):
            try:
                async for piece in content.iter_chunked(_PIECE_BYTES):
                    yield piece
            except aiohttp.ClientError:
                # A connection that broke is reported at once, before what came over it has been read.
                if rest := content._read_nowait(-1):
                    yield rest
                raise

    async def aclose(self) -> None:
        self._response.close()


@contextlib.contextmanager
def _translated(request: httpx2.Request) -> Iterator[None]:
    """Raise aiohttp's errors as those of httpx2."""
    try:
        yield
    except aiohttp.ClientConnectorError as error:  # also of certificates
        raise httpx2.ConnectError(_why_not_connected(error), request=request) from error
    except aiohttp.ConnectionTimeoutError as error:
        raise httpx2.ConnectTimeout(str(error), request=request) from error
    except TimeoutError as error:
        raise httpx2.ReadTimeout(str(error), request=request) from error
    except aiohttp.ServerDisconnectedError as error:
        raise httpx2.RemoteProtocolError("the server disconnected without an answer", request=request) from error
    except (aiohttp.ClientOSError, OSError) as error:
        raise httpx2.ReadError(str(error), request=request) from error
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
        raise httpx2.UnsupportedProtocol(str(error), request=request) from error
    except aiohttp.ClientHttpProxyError as error:
        raise httpx2.ProxyError(str(error), request=request) from error
    except aiohttp.ClientError as error:  # a response that is none, or a body that was cut off
        raise httpx2.RemoteProtocolError(str(error), request=request) from error


def _why_not_connected(error: aiohttp.ClientConnectorError) -> str:
    """The operating system's words, without those of two libraries around them."""
    if isinstance(error, aiohttp.ClientSSLError):
        return str(error)
    cause = error.os_error
    return os.strerror(cause.errno) if cause.errno and cause.errno > 0 else cause.strerror or str(cause)
