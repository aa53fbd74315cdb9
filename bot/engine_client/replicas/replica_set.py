"""Several servers of the same model as one engine (see `bot.engine_client.engine`).

Each tenant has a server of its own, where its prompts are cached. If that fails before the first token, another one is
asked; never after it, since a reply must not be written twice. Knows neither dialogs nor members.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog

from bot.engine_client.engine import EngineState
from bot.engine_client.messages import Finished, Message, ReplyEvent, TokenCount
from bot.engine_client.replicas.choice import choose, has_other
from bot.engine_client.replicas.patience import Patience
from bot.engine_client.replicas.replica import Outcome, Replica
from bot.engine_client.replicas.report import ReplicaReport
from bot.engine_client.replicas.verdict import Silent, verdict_of
from bot.errors import BotError, Busy, EngineUnavailable, EngineUnreadable

log = structlog.get_logger(__name__)

T = TypeVar("T")

_MAX_BEGUN = 2
"""A request that two servers have begun and failed is not tried on a third: it may be what breaks them."""


class ReplicaSet:
    """These servers, all of the same model. `patience`: seconds of silence after which another one is asked."""

    def __init__(self, replicas: Sequence[Replica], *, patience: float) -> None:
        self._replicas = tuple(replicas)
        self._patience = patience
        self._watching: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._watching = [
            asyncio.create_task(replica.watch(), name=f"watch replica {replica.number}") for replica in self._replicas
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop the health checks and close every connection; running replies end."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        await asyncio.gather(*(replica.client.close() for replica in self._replicas))

    def reports(self) -> tuple[ReplicaReport, ...]:
        """How each server is now."""
        return tuple(replica.report() for replica in self._replicas)

    async def check(self) -> None:
        """Check the health of each server once, now."""
        await asyncio.gather(*(replica.check() for replica in self._replicas))

    async def metrics_pages(self) -> tuple[str, ...]:
        """See `Engine.metrics_pages`: by number."""
        pages = await asyncio.gather(*(replica.client.metrics_pages() for replica in self._replicas))
        return tuple(page for (page,) in pages)

    @property
    def state(self) -> EngineState:
        """Ready once one of them has completed a reply."""
        return "ready" if any(replica.client.state == "ready" for replica in self._replicas) else "unreachable"

    @property
    def load_progress(self) -> str:
        """Nothing: only a server that the bot starts itself is waited for while it loads."""
        return ""

    def on_timeout(self) -> None:
        """Look at all of them: one did not answer in time."""
        for replica in self._replicas:
            replica.look_now()

    @property
    def shares_time(self) -> bool:
        """Whether all of those that have named themselves are known to share their time among tenants."""
        known = [replica.client for replica in self._replicas if replica.client.known_model is not None]
        return bool(known) and all(client.shares_time for client in known)

    @property
    def context_length(self) -> int | None:
        """The shortest of the contexts that are known: any of them may get the prompt."""
        known = [replica.client.context_length for replica in self._replicas]
        return min((length for length in known if length is not None), default=None)

    @property
    def known_model(self) -> str | None:
        """The name that the first server asks for which was asked: all serve the same model."""
        known = [replica.client.known_model for replica in self._replicas]
        return next((name for name in known if name is not None), None)

    def lane(self, cache_salt: str) -> int:
        """The number of the server that this tenant's next request goes to."""
        replica = choose(self._replicas, cache_salt)
        return 0 if replica is None else replica.number

    async def ready(self) -> bool:
        """Whether one of them would answer now."""
        return any(await asyncio.gather(*(replica.client.ready() for replica in self._replicas)))

    async def is_busy(self, cache_salt: str | None = None) -> bool:
        """Whether the tenant's server has requests that run or wait; without a tenant, any of them."""
        one = None if cache_salt is None else choose(self._replicas, cache_salt)
        asked = self._replicas if one is None else (one,)
        return any(await asyncio.gather(*(replica.client.is_busy() for replica in asked)))

    async def model(self) -> str:
        """The name that the first server which answers asks for."""
        return await self._first(None, lambda replica: replica.client.model())

    async def count(
        self, messages: Sequence[Message], *, max_tokens: int | None = None, cache_salt: str | None = None
    ) -> TokenCount | None:
        """The tokens of a prompt by the tenant's server, or None if it cannot count them."""
        return await self._first(
            cache_salt, lambda replica: replica.client.count(messages, max_tokens=max_tokens, cache_salt=cache_salt)
        )

    async def accepts_images(self) -> bool:
        """Whether the model sees pictures, by the first server that answers."""
        return await self._first(None, lambda replica: replica.client.accepts_images())

    async def erase_cache(self, cache_salt: str) -> bool:
        """Have all of them drop what they cache with this salt; whether all that can have done so.

        A tenant's prompts may be cached where it was while its own server was away. One that is away now does it as
        soon as it is back, before it gets requests again.
        """
        erased = await asyncio.gather(*(replica.erase(cache_salt) for replica in self._replicas))
        asked = [done for done in erased if done is not None]
        return bool(asked) and all(asked)

    async def _first(self, cache_salt: str | None, ask: Callable[[Replica], Awaitable[T]]) -> T:
        """What the tenant's server answers, or else the next one that does. For calls that change nothing."""
        tried: list[Replica] = []
        errors: list[BotError] = []
        while (replica := choose(self._replicas, cache_salt, tried)) is not None:
            tried.append(replica)
            with replica.request() as outcome:
                try:
                    return await ask(replica)
                except BotError as error:
                    verdict = verdict_of(error)
                    if verdict in {"prompt", None}:
                        raise
                    if verdict == "not_there":
                        outcome.fail(error)
                    errors.append(_named(replica, error))
        raise _to_report(errors)

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        cache_salt: str,
        on_activity: Callable[[], None] = lambda: None,
        **fields: Any,
    ) -> AsyncGenerator[ReplyEvent, None]:
        """As `EngineClient.stream`, by the tenant's server or, before the first token, by another one."""
        tried: list[Replica] = []
        errors: list[BotError] = []
        num_begun = 0
        while num_begun < _MAX_BEGUN and (replica := choose(self._replicas, cache_salt, tried)) is not None:
            tried.append(replica)
            log.debug("a server is asked", replica=replica.name)
            with replica.request() as outcome:
                patience = Patience(self._patience, on_activity, lambda: has_other(self._replicas, tried))
                events = replica.client.stream(
                    messages, cache_salt=cache_salt, on_activity=patience.sign_of_life, **fields
                )
                async with aclosing(events):
                    try:
                        event = await self._first_event(events, patience, outcome)
                        if _says_nothing(event) and has_other(self._replicas, tried):
                            raise EngineUnreadable("an end without a reply")
                    except BotError as error:
                        verdict = outcome.fail(error)
                        if verdict in {"prompt", None}:
                            raise
                        num_begun += verdict == "useless"
                        log.warning("a server failed before the first token", replica=replica.name, reason=error.reason)
                        errors.append(_named(replica, error))
                        on_activity()  # the next one has all the time again
                        continue
                    try:
                        while True:
                            outcome.answered = isinstance(event, Finished)
                            yield event
                            event = await anext(events)
                    except StopAsyncIteration:
                        return
                    except EngineUnavailable as error:
                        outcome.fail(error)
                        _named(replica, error)
                        raise
        raise _to_report(errors)

    async def _first_event(
        self, events: AsyncGenerator[ReplyEvent, None], patience: Patience, outcome: Outcome
    ) -> ReplyEvent:
        """The first piece of a reply. Raises Silent if none came for too long and another server is free."""
        try:
            async with patience.scope():
                return await anext(events)
        except TimeoutError:
            if not patience.is_over:
                raise
            raise Silent(self._patience) from None
        except asyncio.CancelledError:
            if patience.seconds_silent >= self._patience:
                outcome.fail(Silent(self._patience))
            raise


def _says_nothing(event: ReplyEvent) -> bool:
    """Whether a reply ended before it began, without a word of what it took: most likely the server is broken."""
    return isinstance(event, Finished) and event.prompt_tokens is None and event.completion_tokens is None


def _named(replica: Replica, error: BotError) -> BotError:
    """The error, whose reason says which server it is of."""
    error.reason = f"server {replica.name}: {error.reason}"
    return error


def _to_report(errors: Sequence[BotError]) -> BotError:
    """What is said when no server answered: that they are busy, if only one of them was, else what the first said."""
    busy = [error for error in errors if isinstance(error, Busy)]
    if busy:
        return min(busy, key=lambda error: error.retry_after or 0.0)
    return errors[0] if errors else EngineUnavailable("no server is left to ask")
