"""Bounds the connections of the HTTP server: how many may be open, and how long a request may take to come.

uvicorn's own protocol waits for a request without a timeout. Here a connection waits while its request is incomplete,
and is closed after a timeout; when too many connections are open, the one that has waited longest is closed at once, so
that unfinished requests cannot lock other clients out. A response ends too if its client stops reading. reading.py
bounds bodies, wire_limits.py the bytes parsed at a time. Knows no routes.
"""

import asyncio
import resource
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from engine.server.network.wire_limits import RECEIVE_BYTES, BoundedConnection
from engine.server.protocol.errors import RequestError
from engine.server.protocol.responses import encode

HEADER_TIMEOUT = 10.0  # seconds for the head of a request, from its first byte or from the start of the connection
READ_TIMEOUT = 120.0  # seconds in which a client must read some of a response that fills the buffers
LINGER_TIMEOUT = 1.0  # seconds in which a client can read why its bytes are not parsed any further
KEEP_ALIVE_TIMEOUT = 75  # seconds for which an idle connection is kept open
MAX_CONNECTIONS = 4096


def http_config(app: ASGIApp, *, graceful_shutdown: int) -> uvicorn.Config:
    """The configuration of a server; `graceful_shutdown` in seconds."""
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="error",  # a warning for each invalid request would let a client fill the log
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here depends on the client's address
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
    _read_timer: asyncio.TimerHandle | None = None
    _waiting_since = 0.0
    _is_refused = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """uvicorn's arguments."""
        super().__init__(*args, **kwargs)
        self.conn = self._bounded = BoundedConnection()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        if len(self.connections) >= max_connections() and not self._make_room():
            transport.write(_refusal(503, "All connections are in use.", "too_many_connections"))
            transport.close()
            self.transport = transport
            return
        # asyncio's own size, 256 KiB, is what h11 would parse in one go. Other event loops may not have the attribute.
        if hasattr(transport, "max_size"):
            transport.max_size = RECEIVE_BYTES
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self.transport.is_closing() or self._is_refused:
            return
        cycle = self.cycle
        super().data_received(data)
        if self.cycle is not cycle:
            self._stop_timer()
            self._waiting_since = self.loop.time()
        elif self._head_timer is None and not self._is_refused and self._is_between_requests():
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._stop_timer()
        self._stop_read_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read what was sent to it."""
        super().pause_writing()
        self._read_timer = self.loop.call_later(READ_TIMEOUT, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read some of it."""
        self._stop_read_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP, or more of it than is allowed."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            status = self._bounded.error_status
            self.transport.write(_refusal(status, self._bounded.error_message, "invalid_http"))
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        # Discard the client's remaining bytes: if they were unread at the close, it would never see the answer.
        self._is_refused = True
        self._stop_timer()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_TIMEOUT, self.transport.abort)

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
                self.transport.write(_refusal(408, "The request did not come in time.", "request_timeout"))
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None


def _refusal(status: int, message: str, code: str) -> bytes:
    """A complete response, for where there is no request to answer."""
    body = encode(RequestError(message, code=code, status=status).body())
    head = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "connection: close",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(["retry-after: 1"] if status == 503 else []),
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body
