"""Bounds the connections of the HTTP server: how many may be open, and how long a request may take to come.

uvicorn's own protocol waits for a request as long as its client likes. Here a connection whose request has not come
completely counts as waiting: it ends after a while, and when too many connections are open the one that has waited
longest ends at once, so that requests that were only begun shut nobody out. Bodies: see reading.py.
"""

import asyncio
import resource

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_TIMEOUT = 10.0  # seconds for the head of a request, from its first byte or from the start of the connection
KEEP_ALIVE_TIMEOUT = 75  # seconds for which an idle connection is kept open
MAX_CONNECTIONS = 4096
_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"


def http_config(app: ASGIApp, *, graceful_shutdown: int) -> uvicorn.Config:
    """The configuration of a server; `graceful_shutdown` in seconds."""
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=max(16, min(1024, max_connections() // 4)),
        timeout_keep_alive=KEEP_ALIVE_TIMEOUT,
        timeout_graceful_shutdown=graceful_shutdown,
    )


def max_connections() -> int:
    """At most half of the file descriptors that the process may open; the other half is for the engine."""
    return max(8, min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a timeout for the head of each request and a bound for the number of connections."""

    _head_timer: asyncio.TimerHandle | None = None
    _waiting_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        if len(self.connections) >= max_connections() and not self._make_room():
            transport.write(_FULL)
            transport.close()
            self.transport = transport
            return
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        super().data_received(data)
        if self.cycle is not cycle:
            self._stop_timer()
            self._waiting_since = self.loop.time()
        elif self._head_timer is None and self._is_between_requests():
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._stop_timer()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """A response has been sent."""
        self._waiting_since = self.loop.time()
        super().on_response_complete()

    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _is_waiting(self) -> bool:
        """Whether no complete request is being answered."""
        return self._is_between_requests() or (self.cycle.more_body and not self.cycle.response_started)

    def _make_room(self) -> bool:
        """Close the connection that has waited longest for its client. False if none waits."""
        waiting = [
            connection
            for connection in self.connections
            if isinstance(connection, BoundedProtocol) and connection._is_waiting()
        ]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda connection: connection._waiting_since)
        self.connections.discard(oldest)
        oldest.transport.abort()
        return True

    def _expect_head(self) -> None:
        self._waiting_since = self.loop.time()
        self._head_timer = self.loop.call_later(HEADER_TIMEOUT, self._end_waiting)

    def _end_waiting(self) -> None:
        self._head_timer = None
        if self._is_between_requests() and not self.transport.is_closing():
            # A client that sent nothing expects no answer, one that still sends the body of a refused request has one.
            if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
                self.transport.write(_TIMED_OUT)
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
