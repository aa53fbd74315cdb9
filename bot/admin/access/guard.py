"""What every request must be, and what every response says to the browser. An ASGI middleware, before all pages.

A request must name this server (another name that leads here may be an attacker's), be GET, HEAD or POST, and have a
small body. A POST must come from a page of this server. Knows no sessions.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 16 << 10
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer": browsers would then send "Origin: null" with the page's own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",
    "X-Robots-Tag": "noindex, nofollow",
}
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, slots=True)
class Names:
    """How browsers reach the server: `hosts` as they stand in the header Host; `secure`: by HTTPS, through a proxy."""

    hosts: frozenset[str]
    secure: bool

    @classmethod
    def of(cls, host: str, port: int, public_url: str | None) -> Names:
        """The names of a server that listens here, and of its public URL if there is one."""
        own = {f"[{host}]" if ":" in host else host, *_LOOPBACK}
        hosts = {f"{each}:{port}" for each in own} | (own if port == 80 else set())
        if public_url is None:
            return cls(frozenset(hosts), secure=False)
        parts = urlsplit(public_url)
        return cls(frozenset({*hosts, parts.netloc.lower()}), secure=parts.scheme == "https")


class Guard:
    """The middleware."""

    def __init__(self, app: ASGIApp, names: Names) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on and add the headers to its response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                if self._names.secure:
                    headers["Strict-Transport-Security"] = "max-age=31536000"
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        if refusal is not None:
            await refusal(scope, receive, with_headers)
            return
        # An error was answered and logged by then. The server would log it once more, with what it says of members.
        with suppress(Exception):
            await self._app(scope, receive, with_headers)

    def _refusal(self, method: str, headers: Headers) -> Response | None:
        if headers.get("host", "").lower() not in self._names.hosts:
            text = "This server does not go by that name. Set GUILDLLAMA_ADMIN_URL to the address in your browser.\n"
            return PlainTextResponse(text, 421)
        if method not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("Only GET, HEAD and POST.\n", 405, headers={"Allow": "GET, HEAD, POST"})
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY or "transfer-encoding" in headers:
            return PlainTextResponse("The body is too large, or does not say its size.\n", 413)
        if method == "POST" and not self._is_from_here(headers):
            return PlainTextResponse("This form was not sent from a page of this server.\n", 403)
        return None

    def _is_from_here(self, headers: Headers) -> bool:
        """Whether a form was sent by one of our pages, as browsers say it; at least one of the two headers must."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site not in (None, "same-origin") or (site is None and origin is None):
            return False
        return origin is None or _host_of(origin) in self._names.hosts


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
