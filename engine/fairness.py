"""Virtual token counters (Sheng et al., OSDI 2024): whoever was served least goes first.

One `FairShare` covers one level of keys: tenants, or the clients of one tenant. It knows counters and no queues.
"""


class FairShare:
    """What each key has been served, in tokens, among the keys that have requests now.

    A newcomer starts at the least of those: it gains nothing from having been away. What a key was served is remembered
    while it is away, for as long as it is above that least.
    """

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._active: dict[str, int] = {}  # requests of each key that are not finished

    def __len__(self) -> int:
        return len(self._active)

    def enter(self, key: str) -> None:
        if key not in self._active:
            self._served[key] = max(self._served.get(key, 0.0), self._least())
            self._active[key] = 0
        self._active[key] += 1

    def leave(self, key: str) -> None:
        self._active[key] -= 1
        if self._active[key]:
            return
        del self._active[key]
        least = self._least()
        away = (k for k in list(self._served) if k not in self._active and self._served[k] <= least)
        for gone in away if self._active else list(self._served):
            del self._served[gone]

    def charge(self, key: str, tokens: float) -> None:
        self._served[key] += tokens

    def served(self, key: str) -> float:
        return self._served[key]

    def _least(self) -> float:
        return min((self._served[key] for key in self._active), default=0.0)
