"""Which requests hold the rows of the persistent batch, and which of them to preempt when rows or pages run out.

It knows rows and who holds them. It does not know the queues or the pages.
"""

import heapq
from collections import Counter
from collections.abc import Collection, Iterator

from engine.scheduler.request import Request


class RunningBatch:
    """The running requests in the order of their admission, and how many rows each tenant and each client hold.

    The order of preemption: the tenant with the most rows, its client with the most rows, the request admitted last.
    """

    def __init__(self, max_num_seqs: int) -> None:
        self._free_rows = list(range(max_num_seqs))  # a heap
        self._running: dict[Request, None] = {}
        self._tenants: Counter[str] = Counter()
        self._clients: Counter[tuple[str, str]] = Counter()
        self._num_admissions = 0

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._running)

    @property
    def has_free_row(self) -> bool:
        """Whether a request could be added without a preemption."""
        return bool(self._free_rows)

    def rows_of_tenant(self, tenant: str) -> int:
        """How many rows a tenant holds."""
        return self._tenants[tenant]

    def rows_of_client(self, tenant: str, client: str) -> int:
        """How many rows a client holds."""
        return self._clients[tenant, client]

    def add(self, request: Request) -> None:
        """Give the request the lowest free row. There must be one."""
        request.row = heapq.heappop(self._free_rows)
        request.admission_index = self._num_admissions
        self._num_admissions += 1
        self._running[request] = None
        self._tenants[request.tenant] += 1
        self._clients[request.tenant, request.client] += 1

    def remove(self, request: Request) -> None:
        """Free the request's row."""
        del self._running[request]
        self._tenants -= Counter([request.tenant])  # also drops zero counts
        self._clients -= Counter([(request.tenant, request.client)])
        heapq.heappush(self._free_rows, request.row)
        request.row = -1

    def admissible_tenants(self, tenants: list[str]) -> list[str]:
        """Those of `tenants` with a client that could get a row now: a free one, or another request's by preemption."""
        if self._free_rows:
            return tenants
        with_crowding_client = {tenant for (tenant, _), count in self._clients.items() if count > 1}
        any_with_several_rows = any(count > 1 for count in self._tenants.values())
        return [
            tenant
            for tenant in tenants
            if tenant in with_crowding_client or (any_with_several_rows and not self._tenants[tenant])
        ]

    def victim_for_row(self, request: Request, protected: Collection[Request]) -> Request | None:
        """The request to preempt so that `request` can be admitted, or None. Never one of `protected`.

        If its tenant holds no row, a request of a tenant that holds several. If its tenant holds rows but its client
        holds none, a request of a client of the same tenant that holds several. Otherwise None.
        """
        if not self._tenants[request.tenant]:
            victims = (r for r in self._running if r not in protected and self._tenants[r.tenant] > 1)
        elif self._clients[request.tenant, request.client]:
            return None
        else:
            victims = (
                r
                for r in self._running
                if r not in protected and r.tenant == request.tenant and self._clients[r.tenant, r.client] > 1
            )
        return max(victims, key=self._preemption_order, default=None)

    def victim_for_page(self) -> Request:
        """The request to preempt when a running one needs a page. There must be a running request.

        The request that was admitted first is only chosen when it runs alone, so some request always finishes.
        """
        return max(self._running, key=self._preemption_order)

    def _preemption_order(self, request: Request) -> tuple[int, int, int]:
        return (
            self._tenants[request.tenant],
            self._clients[request.tenant, request.client],
            request.admission_index,
        )
