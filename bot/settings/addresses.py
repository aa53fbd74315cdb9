"""Hosts and URLs: what is valid, what this machine alone reaches, what is left without a password. Knows no setting."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. A name may mean any, but for localhost."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_url(value: str, *schemes: str) -> str:
    """The URL. Raises ValueError unless it has one of these schemes and a host."""
    parts = urlsplit(value)
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)} and name a host")
    return value


def openai_base_url(value: str) -> str:
    """OpenAI's base URL ends in /v1, so it is added to a URL without a path. Raises ValueError."""
    url = check_url(value.strip().rstrip("/"), "http", "https")
    return url if urlsplit(url).path else f"{url}/v1"


def without_credentials(url: str) -> str:
    """The URL without a user's name and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
