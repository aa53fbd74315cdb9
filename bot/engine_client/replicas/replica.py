"""One of several servers: its client, how it is, what room it has, and what it has still to erase.

Checks its server's health from time to time, sooner when it is away. Knows no other server and no tenant.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator

import structlog

from bot.engine_client.client import EngineClient
from bot.engine_client.replicas.address import address_of, numbered
from bot.engine_client.replicas.condition import Condition, State
from bot.engine_client.replicas.report import ReplicaReport
from bot.engine_client.replicas.reported_load import LoadReader
from bot.engine_client.replicas.room import Room
from bot.engine_client.replicas.verdict import Verdict, verdict_of
from bot.errors import BotError, Busy

log = structlog.get_logger(__name__)

CHECK_SECONDS = 10.0
"""Between two health checks of a server that is well."""
AWAY_SECONDS = 1.0
"""The same for one that is away."""
_MAX_ERASURES = 10_000


class Outcome:
    """What became of one request. Unless it is set, the client left, and that says nothing."""

    def __init__(self) -> None:
        self.answered = False
        """Whether all of the reply came."""
        self.error: BotError | None = None
        self.verdict: Verdict | None = None
        self.reason = ""

    def fail(self, error: BotError) -> Verdict | None:
        """The request ended so; what that says."""
        self.answered, self.error, self.reason, self.verdict = False, error, error.reason, verdict_of(error)
        return self.verdict


class Replica:
    """The server with this number, from 1 on."""

    def __init__(self, number: int, url: str, client: EngineClient, *, name: str = "") -> None:
        """`name`: what it is called in the log, if not by its number and address."""
        self.number = number
        self.name = name or numbered(number, url)
        self.address = address_of(url)
        self.client = client
        self.condition = Condition(self._changed)
        self.room = Room()
        self._load = LoadReader(client.transport)
        self._erasures: dict[str, None] = {}
        """Salts whose prompts it has still to erase."""
        self._look = asyncio.Event()

    def report(self) -> ReplicaReport:
        """How it is now."""
        return ReplicaReport(
            number=self.number,
            address=self.address,
            state=self.condition.state,
            model=self.client.known_model,
            context_length=self.client.context_length,
            num_in_flight=self.room.num_in_flight,
            limit=self.room.limit,
        )

    @contextlib.contextmanager
    def request(self) -> Iterator[Outcome]:
        """Count a request as under way until the block ends, and learn from its outcome."""
        outcome = Outcome()
        self.room.begin()
        self.condition.begin()
        try:
            yield outcome
        finally:
            if outcome.error is not None:
                self._learn(outcome)
            elif outcome.answered:
                self.condition.answered()
            else:
                self.condition.left()
            self.room.end(answered=outcome.answered)

    def _learn(self, outcome: Outcome) -> None:
        if outcome.verdict == "not_there":
            self.condition.not_there(outcome.reason)
            return
        if outcome.verdict == "useless":
            self.condition.useless(outcome.reason)
            return
        self.condition.left()
        if isinstance(outcome.error, Busy):
            self.room.refused(outcome.error.retry_after)
            log.info("a server is full", replica=self.name, at_once=self.room.num_in_flight - 1)

    def look_now(self) -> None:
        """Check its health at once."""
        self._look.set()

    async def watch(self) -> None:
        """Check its health until cancelled."""
        while True:
            try:
                await self.check()
            except Exception:
                log.exception("a health check failed", replica=self.name)
            away = self.condition.state == "away"
            pause = (AWAY_SECONDS if away else CHECK_SECONDS) * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._look.wait()
            self._look.clear()

    async def check(self) -> None:
        """Check its health, and while it is ready, read its model and its load, and have it erase what it missed."""
        health = await self.client.health()
        if health == "unreachable":
            self.condition.check_missed()
            return
        if health == "not_ready":
            self.condition.not_there("its health check says that it is not ready")
            return
        if self.client.known_model is None:
            with contextlib.suppress(BotError):
                await self.client.model()
        await self._erase_missed()
        self.room.report(await self._load.read())
        self.condition.check_succeeded()

    async def erase(self, cache_salt: str) -> bool | None:
        """Have it drop what it caches with this salt, later if it cannot be reached now. None: it never can."""
        if not self.client.can_erase:
            return None
        # Kept first: the caller's patience may end while the server is asked.
        self._erasures.pop(cache_salt, None)
        self._erasures[cache_salt] = None
        if len(self._erasures) > _MAX_ERASURES:
            self._erasures.pop(next(iter(self._erasures)))
            log.warning("an erasure was given up: the server has been away for too long", replica=self.name)
        done = await self.client.erase_cache(cache_salt)
        if done or not self.client.can_erase:
            self._erasures.pop(cache_salt, None)
        return done if self.client.can_erase else None

    async def _erase_missed(self) -> None:
        for cache_salt in list(self._erasures):
            if not self.client.can_erase:
                self._erasures.clear()
                return
            if not await self.client.erase_cache(cache_salt):
                return
            self._erasures.pop(cache_salt, None)

    def _changed(self, state: State, reason: str) -> None:
        say = log.warning if state in {"away", "resting"} else log.info
        say("a server's state changed", replica=self.name, state=state, reason=reason)
        if state == "away":
            self.look_now()
