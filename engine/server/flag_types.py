"""What the engine's flags take: numbers within bounds, names and addresses. One line says what is wrong."""

import argparse
from collections.abc import Callable
from urllib.parse import urlsplit

from engine.server.network.access import normal_host, normal_origin

MIB = 1 << 20


def at_least(low: int) -> Callable[[str], int]:
    """A whole number from `low` on."""

    def whole_number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None
        if value < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, not {value}")
        return value

    return whole_number


def port(text: str) -> int:
    """A port; 0: any free one."""
    number = at_least(0)(text)
    if number > 65535:
        raise argparse.ArgumentTypeError(f"must be at most 65535, not {number}")
    return number


def seconds(text: str) -> float:
    """Up to ten seconds."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 10:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 10, not {text!r}")
    return number


def mebibytes(text: str) -> int:
    """A number of MiB, as bytes."""
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 0 < size < 1 << 20:
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text!r}")
    return max(1, int(size * MIB))


def bind_host(text: str) -> str:
    """Without the brackets of an IPv6 address in a URL."""
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def host(text: str) -> str:
    """The name or address of a server, as in a Host header."""
    name = normal_host(text)
    if name is None:
        raise argparse.ArgumentTypeError(f"must be a name or address such as chat.example, not {text!r}")
    return name


def origin(text: str) -> str:
    """The origin of web pages, as in an Origin header."""
    name = normal_origin(text)
    if name is None:
        raise argparse.ArgumentTypeError(f"must be an origin such as https://chat.example, not {text!r}")
    return name


def collector(text: str) -> str:
    """The URL of an OpenTelemetry collector; spans go to /v1/traces, which is added to a URL without a path."""
    url = text.strip().rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"must be a URL such as http://127.0.0.1:4318, not {text!r}")
    if parts.username or parts.password:
        raise argparse.ArgumentTypeError("must not contain a password; set OTEL_EXPORTER_OTLP_HEADERS instead")
    return url if parts.path else f"{url}/v1/traces"
