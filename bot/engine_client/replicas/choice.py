"""Which server a request goes to: the tenant's own while it is well and has room, else the next in its order.

A server that may not take requests is only asked when no other is left, so that nothing is refused on a guess.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bot.engine_client.replicas.rendezvous import preferred_order
from bot.engine_client.replicas.replica import Replica


def in_order(replicas: Sequence[Replica], cache_salt: str | None) -> list[Replica]:
    """All servers as this tenant prefers them; without a tenant, in the order of the settings."""
    if cache_salt is None:
        return list(replicas)
    order = preferred_order(cache_salt, [replica.address for replica in replicas])
    return [replicas[place] for place in order]


def choose(replicas: Sequence[Replica], cache_salt: str | None, without: Collection[Replica] = ()) -> Replica | None:
    """The server to ask next; None if every one of them was asked."""
    left = [replica for replica in in_order(replicas, cache_salt) if replica not in without]
    return min(left, key=_rank, default=None)  # of equal ones the first


def has_other(replicas: Sequence[Replica], without: Collection[Replica]) -> bool:
    """Whether a server that was not asked yet would begin a request at once."""
    return any(replica not in without and _rank(replica) == 0 for replica in replicas)


def _rank(replica: Replica) -> int:
    state = replica.condition.state
    if replica.condition.takes_requests:
        return 0 if replica.room.has_room else 1
    return {"trial": 2, "well": 2, "resting": 3, "away": 4}[state]
