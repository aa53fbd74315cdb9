"""How a server is called in the log and by `doctor`: its number in the settings, its host and port, no credentials.

A server of a listed model is called by the name of that model as well.
"""

from __future__ import annotations

from urllib.parse import urlsplit


def address_of(url: str) -> str:
    """Host and port, with the path where it is not /v1. Two servers have two addresses."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = parts.port or (443 if parts.scheme == "https" else 80)
    path = parts.path.rstrip("/")
    return f"{host}:{port}{'' if path == '/v1' else path}"


def numbered(number: int, url: str, model: str = "") -> str:
    """The number and the address, such as "2 (10.0.0.5:8000)", of a listed model "small 2 (10.0.0.5:8000)"."""
    return f"{model} {number} ({address_of(url)})".lstrip()


def alone(url: str, model: str) -> str:
    """The only server of a listed model, such as "small (10.0.0.5:8000)"."""
    return f"{model} ({address_of(url)})"
