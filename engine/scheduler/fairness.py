"""Who is next: virtual token counters (Sheng et al., OSDI 2024) at two levels, tenants and the clients of a tenant.

Whoever was served least goes first. What a client's running replies will still take counts as served already: the
paper's variant with predicted lengths. Otherwise a tenant that is a little behind would be given all the rows that come
free at once, and the others would wait for whole replies. It knows counters, and no queues.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from engine.scheduler.request import Request, RequestStatus
from engine.scheduler.running_batch import RunningBatch

DECODE_WEIGHT: Final = 2.0  # an output token costs a whole pass over the weights that others share; a prompt token less
REPLY_LENGTH_WEIGHT: Final = 0.1  # a finished reply's weight in the length that is expected of others


class VirtualTokenCounter:
    """What each key has been served, in tokens, among the keys that have requests now.

    A newcomer starts at the least of those: it gains nothing from having been away. But no more than `lag` below what
    equal shares would have given, or a stream of newcomers would hold the least where it is, and whoever is above it
    would never have its turn. What a key was served is remembered while it is away, for as long as it is above that
    start.
    """

    def __init__(self, max_lag: float) -> None:
        self._max_lag = max_lag
        self._served: dict[str, float] = {}
        self._active: dict[str, int] = {}  # requests of each key that are not finished
        self._equal_share = 0.0  # what a key would have been served with equal shares all the time

    def __len__(self) -> int:
        return len(self._active)

    def add_request(self, key: str) -> None:
        if key not in self._active:
            self._served[key] = max(self._served.get(key, 0.0), self._newcomer_start())
            self._active[key] = 0
        self._active[key] += 1

    def remove_request(self, key: str) -> None:
        self._active[key] -= 1
        if self._active[key]:
            return
        del self._active[key]
        if not self._active:
            self._served.clear()
            self._equal_share = 0.0
            return
        start = self._newcomer_start()
        for gone in [k for k in self._served if k not in self._active and self._served[k] <= start]:
            del self._served[gone]

    def charge(self, key: str, tokens: float) -> None:
        self._served[key] += tokens
        self._equal_share += tokens / len(self._active)

    def served(self, key: str) -> float:
        return self._served[key]

    def _newcomer_start(self) -> float:
        return max(self._equal_share - self._max_lag, min((self._served[key] for key in self._active), default=0.0))


class PredictedDemand:
    """What replies in the making will still take, by tenant and by client, in the counters' tokens."""

    def __init__(self, reply_length: float) -> None:
        """`length` is expected of a reply."""
        self._length = reply_length
        self._tenants: defaultdict[str, float] = defaultdict(float)
        self._clients: defaultdict[tuple[str, str], float] = defaultdict(float)

    def add(self, request: Request) -> None:
        """A request whose prompt is complete."""
        so_far = request.num_scheduled_tokens - request.num_prompt_tokens
        rest = DECODE_WEIGHT * max(
            0.0, min(request.max_total_tokens - request.num_scheduled_tokens, self._length - so_far)
        )
        self._tenants[request.tenant] += rest
        self._clients[request.tenant, request.client] += rest

    def of_tenant(self, tenant: str) -> float:
        return self._tenants[tenant]

    def of_client(self, tenant: str, client: str) -> float:
        return self._clients[tenant, client]


class Fairness:
    """Both levels, and how long a reply is expected to get.

    Clients of a tenant that are no more than `slack` tokens apart go by the rows they hold, by what has been computed
    of their prompts, then by arrival: one of them has paid for the persona that all share, and need not wait a turn for
    it. A reply that had begun and lost its row goes on before others of its tenant begin, unless its client holds
    another row.
    """

    def __init__(self, *, tie_margin: float, max_lag: float) -> None:
        """Both in tokens; `lag` as for FairShare."""
        self._tie_margin, self._max_lag = tie_margin, max_lag
        self._tenants = VirtualTokenCounter(max_lag)
        self._clients: dict[str, VirtualTokenCounter] = {}
        self._reply_length = math.inf  # until a reply has ended: as long as it may get

    def add_request(self, request: Request) -> None:
        self._tenants.add_request(request.tenant)
        self._clients.setdefault(request.tenant, VirtualTokenCounter(self._max_lag)).add_request(request.client)

    def remove_request(self, request: Request) -> None:
        self._tenants.remove_request(request.tenant)
        clients = self._clients[request.tenant]
        clients.remove_request(request.client)
        if not len(clients):
            del self._clients[request.tenant]

    def charge(self, request: Request, tokens: float, *, shared: bool = False) -> None:
        """`shared`: others of the tenant waited for it, so it is not the client's alone."""
        self._tenants.charge(request.tenant, tokens)
        if not shared:
            self._clients[request.tenant].charge(request.client, tokens)

    def record_reply_length(self, length: int) -> None:
        """A reply of so many tokens has ended by itself."""
        self._reply_length = (
            length
            if self._reply_length == math.inf
            else self._reply_length + REPLY_LENGTH_WEIGHT * (length - self._reply_length)
        )

    def predict_demand(self, running: Iterable[Request]) -> PredictedDemand:
        ahead = PredictedDemand(self._reply_length)
        for request in running:
            if request.status is RequestStatus.DECODE:
                ahead.add(request)
        return ahead

    def next_request(
        self, candidates: dict[str, dict[str, Request]], batch: RunningBatch, demand: PredictedDemand
    ) -> Request:
        """Who is next of one request of each client of each tenant. Among equals, whoever holds fewer rows."""

        def tenants_turn(tenant: str) -> tuple[float, int, int]:
            served = self._tenants.served(tenant) + demand.of_tenant(tenant)
            return served, batch.rows_of_tenant(tenant), min(request.id for request in candidates[tenant].values())

        tenant = min(candidates, key=tenants_turn)
        clients, shares = candidates[tenant], self._clients[tenant]
        served = {client: shares.served(client) + demand.of_client(tenant, client) for client in clients}
        near = min(served.values()) + self._tie_margin

        def clients_turn(client: str) -> tuple[bool, float, int, int, int]:
            head = clients[client]
            held = batch.rows_of_client(tenant, client)
            stands_still = (
                head.status is RequestStatus.WAITING and len(head.token_ids) > head.num_prompt_tokens and not held
            )
            return not stands_still, max(near, served[client]), held, head.num_prefilled_tokens, head.id

        return clients[min(clients, key=clients_turn)]
