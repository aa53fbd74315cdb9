"""Requests that wait, by tenant and client: each client's own in the order of arrival, preempted ones first."""

from collections import deque
from collections.abc import Iterator

from engine.scheduler.request import Request


class RequestQueue:
    def __init__(self) -> None:
        self._queues: dict[str, dict[str, deque[Request]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def tenants(self) -> list[str]:
        return list(self._queues)

    def next_requests(self, tenant: str) -> Iterator[Request]:
        """The next request of each client of a tenant."""
        for queue in self._queues[tenant].values():
            yield queue[0]

    def push(self, request: Request, *, first: bool) -> None:
        queue = self._queues.setdefault(request.tenant, {}).setdefault(request.client, deque())
        if first:
            queue.appendleft(request)
        else:
            queue.append(request)
        self._count += 1

    def remove(self, request: Request) -> None:
        queues = self._queues[request.tenant]
        queue = queues[request.client]
        queue.remove(request)
        self._count -= 1
        if not queue:
            del queues[request.client]
        if not queues:
            del self._queues[request.tenant]
