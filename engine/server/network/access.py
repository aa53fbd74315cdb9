"""Who may use the server: which Host and Origin a request may name, and which addresses need an API key.

A web page that is open on the operator's machine can send requests to a local port, directly (its browser adds Origin)
or under a name that its owner points at the machine (DNS rebinding: the Host is that name). Knows no routes and no
bodies. Keys are checked in app.py.
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.server.protocol.errors import RequestError
from engine.server.protocol.responses import encode

ANY = "*"
_MAX_HOST = 300
# Labels of a name, or an IPv6 address in brackets.
_HOST = re.compile(
    r"(?:(?P<name>\w+(?:-+\w+)*(?:\.\w+(?:-+\w+)*)*\.?)|\[(?P<address>[0-9a-f:.]+)\])(?::(?P<port>\d{0,5}))?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """The names of this server and the web pages that may use it.

    `host`: the address that it is bound to; None for a Unix socket, which no web page can reach. `allowed_hosts`: more
    names of it; `allowed_origins`: such as https://chat.example. "*" allows all.
    """

    host: str | None = "127.0.0.1"
    allowed_hosts: frozenset[str] = frozenset()
    allowed_origins: frozenset[str] = frozenset()

    def check(self, headers: Headers) -> None:
        """Raises RequestError (403) for a foreign Host or Origin."""
        hosts = headers.getlist("host")
        if self.host is not None and not (len(hosts) == 1 and self._is_own(hosts[0])):
            raise RequestError(
                "The Host header names another server. Use the server's address, or start it with --allowed-host NAME.",
                code="host_not_allowed",
                status=403,
            )
        for origin in headers.getlist("origin"):
            if not self._may_use(origin, hosts):
                raise RequestError(
                    "Web pages of this Origin may not use the server. To let them, start it with "
                    "--allowed-origin ORIGIN.",
                    code="origin_not_allowed",
                    status=403,
                )

    def _is_own(self, host: str) -> bool:
        name = _host_name(host)
        if name is None:
            return False
        if ANY in self.allowed_hosts or name in self.allowed_hosts or is_loopback(name):
            return True
        if self.host is None or name == _normal(self.host):
            return True
        # Bound to all addresses: any of them may be meant. An address, unlike a name, cannot be pointed elsewhere.
        return _is_unspecified(self.host) and _address(name) is not None

    def _may_use(self, origin: str, hosts: list[str]) -> bool:
        if ANY in self.allowed_origins or origin.lower() in self.allowed_origins:
            return True
        if self.host is None or ANY in self.allowed_hosts:  # then the Host says nothing about where a page came from
            return False
        return [origin.lower()] == [f"http://{host.lower()}" for host in hosts]


class AccessMiddleware:
    """Refuses the requests that the policy does not allow, before anything else looks at them."""

    def __init__(self, app: ASGIApp, policy: AccessPolicy) -> None:
        """With allowed origins, their pages also get the CORS headers that browsers ask for."""
        if policy.allowed_origins:
            app = CORSMiddleware(
                app,
                allow_origins=sorted(policy.allowed_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["retry-after", "x-request-id"],
            )
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] == "http":
            try:
                self._policy.check(Headers(scope=scope))
            except RequestError as error:
                refusal = Response(encode(error.body()), error.status, media_type="application/json")
                return await refusal(scope, receive, send)
        await self._app(scope, receive, send)


def is_loopback(name: str) -> bool:
    """Whether only this machine can be meant by the name or address."""
    name = _normal(name)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and address.is_loopback


def normal_origin(origin: str) -> str | None:
    """An origin as browsers send it, or "*"; None if it is none."""
    origin = origin.strip().lower()
    if origin in (ANY, "null"):
        return origin
    parts = urlsplit(origin)
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme and parts.netloc and not parts.path.strip("/") else None


def normal_host(host: str) -> str | None:
    """A host as `AccessPolicy` takes it, without a port; None if it is none."""
    host = host.strip()
    return host if host == ANY else _host_name(f"[{host}]" if host.count(":") > 1 and "[" not in host else host)


def _host_name(host: str) -> str | None:
    """The name or address in a Host header, without its port; None if it is not of that form."""
    match = _HOST.fullmatch(host) if len(host) <= _MAX_HOST else None
    if match is None or (match["port"] and not 0 < int(match["port"]) < 1 << 16):
        return None
    if match["name"] is not None:
        return _normal(match["name"])
    address = _address(match["address"])
    return None if address is None else str(address)


def _normal(name: str) -> str:
    name = name.lower().removesuffix(".").partition("%")[0]  # an IPv6 zone is this machine's own affair
    address = _address(name)
    return name if address is None else str(address)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    return (address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None) or address


def _is_unspecified(host: str) -> bool:
    address = _address(host)
    return host == "" or (address is not None and address.is_unspecified)
