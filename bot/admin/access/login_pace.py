"""How often somebody may try to sign in: from one address, and from all together. Each try costs argon2's memory."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable

from bot.chat.queue.rates import Buckets

TRIES = 6
"""Tries a minute from one address."""
ALL_TRIES = 30
"""Tries a minute from all addresses."""
_EVERYWHERE = "everywhere"


class LoginPace:
    """Counts the tries. A successful one counts too: it took as long to check."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._buckets = Buckets(clock)

    def seconds(self, address: str) -> float:
        """Seconds until this address may try again; 0 if it may now."""
        own = self._buckets.seconds_until(_network(address), TRIES)
        return max(own, self._buckets.seconds_until(_EVERYWHERE, ALL_TRIES))

    def count(self, address: str) -> None:
        """Count a try that was let through."""
        self._buckets.take(_network(address), TRIES)
        self._buckets.take(_EVERYWHERE, ALL_TRIES)


def _network(address: str) -> str:
    """Of IPv6, the network: one person has all addresses of it."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if found.version == 4 else str(ipaddress.ip_network((found, 64), strict=False))
