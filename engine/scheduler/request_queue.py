"""The requests that wait for a row, in one queue for each client of each tenant.

New requests go to the back of their client's queue. A preempted request returns to the front, so it runs again before
its client's newer requests. Which client is next is decided by `Fairness`, not here.
"""

from collections import deque
from collections.abc import Iterator

from engine.scheduler.request import Request


class RequestQueue:
    """Tenant -> client -> deque. Empty queues are removed, so `tenants` lists those with waiting requests."""

    def __init__(self) -> None:
        self._queues: dict[str, dict[str, deque[Request]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def tenants(self) -> list[str]:
        """Tenants with at least one waiting request."""
        return list(self._queues)

    def next_requests(self, tenant: str) -> Iterator[Request]:
        """The first request of each client of a tenant."""
        for queue in self._queues[tenant].values():
            yield queue[0]

    def requests(self, tenant: str) -> Iterator[Request]:
        """All requests of a tenant, which may have none."""
        for queue in self._queues.get(tenant, {}).values():
            yield from queue

    def push(self, request: Request, *, first: bool) -> None:
        """Add a request to its client's queue, at the front if `first`."""
        queue = self._queues.setdefault(request.tenant, {}).setdefault(request.client, deque())
        if first:
            queue.appendleft(request)
        else:
            queue.append(request)
        self._count += 1

    def remove(self, request: Request) -> None:
        """Remove a request from wherever it is in its queue. Raises KeyError or ValueError if it does not wait."""
        queues = self._queues[request.tenant]
        queue = queues[request.client]
        queue.remove(request)
        self._count -= 1
        if not queue:
            del queues[request.client]
        if not queues:
            del self._queues[request.tenant]
