"""What one client may make the HTTP parser do: bytes parsed at a time, the size of a head, the number of chunks.

h11 parses in Python, on the event loop: a head of ten thousand lines or a body in chunks of one byte would keep
everybody waiting. Knows h11; knows neither connections nor requests.
"""

from typing import Any

import h11

RECEIVE_BYTES = 1 << 13  # taken from a socket at a time
MAX_HEAD_BYTES = 1 << 14
# A body may come in FREE_PIECES pieces, and in one more for each MIN_PIECE_BYTES of its bytes.
FREE_PIECES = 256
MIN_PIECE_BYTES = 64


class BoundedConnection(h11.Connection):
    """h11's state of a connection. `error_status` and `error_message`: the answer to a RemoteProtocolError."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self.error_status = 400
        self.error_message = "The request is not valid HTTP/1.1."
        self._num_pieces = self._num_bytes = 0

    def next_event(self) -> Any:
        """See h11."""
        try:
            event = super().next_event()
            if isinstance(event, h11.Data):
                self._count(len(event.data))
            elif isinstance(event, h11.Request):
                self._num_pieces = self._num_bytes = 0
                if {b"content-length", b"transfer-encoding"} <= {name for name, _ in event.headers}:
                    raise h11.RemoteProtocolError("a proxy may have read another body")
        except h11.RemoteProtocolError as error:
            self.error_status = error.error_status_hint
            if self.error_status == 431:
                self.error_message = f"The head of a request may have at most {MAX_HEAD_BYTES} bytes."
            elif self.error_status == 413:
                self.error_message = "The body comes in too many small chunks."
            raise
        return event

    def _count(self, num_bytes: int) -> None:
        self._num_pieces += 1
        self._num_bytes += num_bytes
        if self._num_pieces > FREE_PIECES + self._num_bytes // MIN_PIECE_BYTES:
            raise h11.RemoteProtocolError("small chunks", error_status_hint=413)
