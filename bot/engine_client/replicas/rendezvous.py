"""Which server a tenant belongs to, by rendezvous hashing: each server has a score for each tenant, the highest wins.

A tenant's prompts are cached where it belongs. When a server goes, only its own tenants move, each to the next of its
own order; when it comes back, they alone return. The order of the servers in the settings does not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def preferred_order(tenant: str, names: Sequence[str]) -> list[int]:
    """The places of the names in the order in which this tenant prefers them."""
    return sorted(range(len(names)), key=lambda place: _score(tenant, names[place]), reverse=True)


def _score(tenant: str, name: str) -> bytes:
    return hashlib.blake2b(f"{tenant}\x00{name}".encode(), digest_size=8).digest()
