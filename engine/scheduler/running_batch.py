"""Who holds the rows of the batch, and who has to go when a row or a page is needed. It knows rows and no queues."""

import heapq
from collections import Counter
from collections.abc import Collection, Iterator

from engine.scheduler.request import Request


class RunningBatch:
    """Rows by request, in the order of admission; how many each tenant and each client hold."""

    def __init__(self, max_num_seqs: int) -> None:
        self._free = list(range(max_num_seqs))
        self._running: dict[Request, None] = {}
        self._tenants: Counter[str] = Counter()
        self._clients: Counter[tuple[str, str]] = Counter()
        self._admissions = 0

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._running)

    @property
    def has_free_row(self) -> bool:
        return bool(self._free)

    def rows_of_tenant(self, tenant: str) -> int:
        return self._tenants[tenant]

    def rows_of_client(self, tenant: str, client: str) -> int:
        return self._clients[tenant, client]

    def add(self, request: Request) -> None:
        request.row = heapq.heappop(self._free)
        request.admission_index = self._admissions
        self._admissions += 1
        self._running[request] = None
        self._tenants[request.tenant] += 1
        self._clients[request.tenant, request.client] += 1

    def remove(self, request: Request) -> None:
        del self._running[request]
        self._tenants -= Counter([request.tenant])  # drops what is zero
        self._clients -= Counter([(request.tenant, request.client)])
        heapq.heappush(self._free, request.row)
        request.row = -1

    def admissible_tenants(self, tenants: list[str]) -> list[str]:
        """Those of the tenants of whom somebody could get a row now, a free one or another's."""
        if self._free:
            return tenants
        crowded = {tenant for (tenant, _), count in self._clients.items() if count > 1}
        several = any(count > 1 for count in self._tenants.values())
        return [tenant for tenant in tenants if tenant in crowded or (several and not self._tenants[tenant])]

    def victim_for_row(self, request: Request, protected: Collection[Request]) -> Request | None:
        """Whom to preempt so that `request` gets a row: only if its tenant, or its client in it, holds none."""
        if not self._tenants[request.tenant]:
            return self._latest(r for r in self._running if r not in protected and self._tenants[r.tenant] > 1)
        if self._clients[request.tenant, request.client]:
            return None
        return self._latest(
            r
            for r in self._running
            if r not in protected and r.tenant == request.tenant and self._clients[r.tenant, r.client] > 1
        )

    def victim_for_page(self, protected: Collection[Request]) -> Request | None:
        """Whom to preempt for a page. The oldest of all only when it runs alone, so something always gets finished."""
        return self._latest(r for r in self._running if r not in protected)

    def _latest(self, candidates: Iterator[Request]) -> Request | None:
        """The latest request of the client with most rows in the tenant with most rows."""
        return max(
            candidates,
            key=lambda r: (self._tenants[r.tenant], self._clients[r.tenant, r.client], r.admission_index),
            default=None,
        )
