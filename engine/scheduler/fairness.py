"""Which request is next: virtual token counters at two levels, the tenants and then the clients of one tenant.

The counters are those of Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024 (VTC): each counts the
weighted tokens that it was served, and the lowest one is next. As in the paper's variant with length prediction, the
tokens that running replies are still expected to take count as served. Otherwise a tenant that is a little behind would
get all rows that become free at the same time, and the others would wait for whole replies.

It knows counters and how many rows each tenant and client hold. It does not know the queues.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from engine.scheduler.request import Request, RequestStatus
from engine.scheduler.running_batch import RunningBatch

# In prompt tokens: an output token needs a pass over all weights, which only the rows of one step share.
DECODE_WEIGHT: Final = 2.0
REPLY_LENGTH_WEIGHT: Final = 0.1  # of the newest reply, in the moving average of reply lengths


class VirtualTokenCounter:
    """Weighted tokens served to each key (a tenant or a client), among the keys with unfinished requests.

    A key that becomes active starts at the lowest active counter, so it gains nothing from its absence, and never more
    than `max_lag` below the equal share. Without that limit an endless stream of new keys would keep the minimum where
    it is, and a key above it would never be next. A key that returns keeps its own counter if it is above the start;
    the counter of an inactive key is forgotten once it is not.
    """

    def __init__(self, max_lag: float) -> None:
        self._max_lag = max_lag
        self._served: dict[str, float] = {}
        self._active: dict[str, int] = {}  # unfinished requests of each key
        self._equal_share = 0.0  # the counter of a key that was always active and always got an equal share

    def __len__(self) -> int:
        return len(self._active)

    def add_request(self, key: str) -> None:
        """One more unfinished request of `key`."""
        if key not in self._active:
            self._served[key] = max(self._served.get(key, 0.0), self._start())
            self._active[key] = 0
        self._active[key] += 1

    def remove_request(self, key: str) -> None:
        """One request of `key` has finished."""
        self._active[key] -= 1
        if self._active[key]:
            return
        del self._active[key]
        if not self._active:
            self._served.clear()
            self._equal_share = 0.0
            return
        start = self._start()
        for inactive in [k for k in self._served if k not in self._active and self._served[k] <= start]:
            del self._served[inactive]

    def charge(self, key: str, weighted_tokens: float) -> None:
        """`key`, which must be active, was served so much."""
        self._served[key] += weighted_tokens
        self._equal_share += weighted_tokens / len(self._active)

    def served(self, key: str) -> float:
        """The counter of an active key."""
        return self._served[key]

    def _start(self) -> float:
        """The counter of a key that becomes active."""
        return max(self._equal_share - self._max_lag, min((self._served[key] for key in self._active), default=0.0))


class PredictedDemand:
    """Weighted tokens that decoding requests are expected to take until they end, by tenant and by client."""

    def __init__(self, reply_length: float) -> None:
        """`reply_length`: the number of tokens that a reply is expected to have."""
        self._reply_length = reply_length
        self._tenants: defaultdict[str, float] = defaultdict(float)
        self._clients: defaultdict[tuple[str, str], float] = defaultdict(float)

    def add(self, request: Request) -> None:
        """Count a request whose prefill is complete."""
        num_output_tokens = request.num_scheduled_tokens - request.num_prompt_tokens
        remaining = min(request.max_total_tokens - request.num_scheduled_tokens, self._reply_length - num_output_tokens)
        weighted = DECODE_WEIGHT * max(0.0, remaining)
        self._tenants[request.tenant] += weighted
        self._clients[request.tenant, request.client] += weighted

    def of_tenant(self, tenant: str) -> float:
        """What all running requests of a tenant will take."""
        return self._tenants[tenant]

    def of_client(self, tenant: str, client: str) -> float:
        """What the running requests of one client will take."""
        return self._clients[tenant, client]


class Fairness:
    """The counters of both levels, the expected reply length, and the order among requests that could be next."""

    def __init__(self, *, tie_margin: float, max_lag: float) -> None:
        """In weighted tokens. `tie_margin`: see `next_request`; `max_lag`: see VirtualTokenCounter."""
        self._tie_margin, self._max_lag = tie_margin, max_lag
        self._tenants = VirtualTokenCounter(max_lag)
        self._clients: dict[str, VirtualTokenCounter] = {}  # by tenant
        self._reply_length = math.inf  # no limit but the request's own until the first reply has ended

    def add_request(self, request: Request) -> None:
        """A request has arrived."""
        self._tenants.add_request(request.tenant)
        self._clients.setdefault(request.tenant, VirtualTokenCounter(self._max_lag)).add_request(request.client)

    def remove_request(self, request: Request) -> None:
        """A request has finished, for whatever reason."""
        self._tenants.remove_request(request.tenant)
        clients = self._clients[request.tenant]
        clients.remove_request(request.client)
        if not len(clients):
            del self._clients[request.tenant]

    def charge(self, request: Request, weighted_tokens: float, *, shared: bool = False) -> None:
        """Charge the tenant, and the client too unless the tokens are `shared`: other clients waited for them."""
        self._tenants.charge(request.tenant, weighted_tokens)
        if not shared:
            self._clients[request.tenant].charge(request.client, weighted_tokens)

    def record_reply_length(self, num_tokens: int) -> None:
        """A reply has ended at a stop token or at its maximum length."""
        if self._reply_length == math.inf:
            self._reply_length = num_tokens
        else:
            self._reply_length += REPLY_LENGTH_WEIGHT * (num_tokens - self._reply_length)

    def predict_demand(self, running: Iterable[Request]) -> PredictedDemand:
        """The predicted demand of all requests in `running` that decode."""
        demand = PredictedDemand(self._reply_length)
        for request in running:
            if request.status is RequestStatus.DECODE:
                demand.add(request)
        return demand

    def next_request(
        self, candidates: dict[str, dict[str, Request]], batch: RunningBatch, demand: PredictedDemand
    ) -> Request:
        """The next one of `candidates`, which has at most one request of each client: tenant -> client -> request.

        The tenant with the lowest counter plus demand is next; among equals the one with the fewest rows, then the one
        whose request arrived first. Within the tenant the order is:

        1. A preempted request with output is next if its client holds no row, so that a reply that has started does
           not wait for new ones.
        2. The lowest counter plus demand of the client. Clients within `tie_margin` of the lowest one count as equal.
           The client that prefilled the persona they all share was charged for it, and is not delayed as well.
        3. The fewest rows, then the fewest prompt tokens computed, then the earliest arrival.
        """

        def tenant_order(tenant: str) -> tuple[float, int, int]:
            served = self._tenants.served(tenant) + demand.of_tenant(tenant)
            return served, batch.rows_of_tenant(tenant), min(request.id for request in candidates[tenant].values())

        tenant = min(candidates, key=tenant_order)
        requests, counter = candidates[tenant], self._clients[tenant]
        served = {client: counter.served(client) + demand.of_client(tenant, client) for client in requests}
        tie_limit = min(served.values()) + self._tie_margin

        def client_order(client: str) -> tuple[bool, float, int, int, int]:
            request = requests[client]
            num_rows = batch.rows_of_client(tenant, client)
            has_output = len(request.token_ids) > request.num_prompt_tokens
            is_interrupted = request.status is RequestStatus.WAITING and has_output and not num_rows
            return (
                not is_interrupted,
                max(tie_limit, served[client]),
                num_rows,
                request.num_prefilled_tokens,
                request.id,
            )

        return requests[min(requests, key=client_order)]
