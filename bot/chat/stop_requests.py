"""Stops a reply on a click, in any process of the bot.

A click on a reply that this process writes stops it at once. For another one, a row in the database asks the process
that writes it. While replies run here, one small query for all of them looks for such rows twice a second; a process
without a running reply asks nothing. Knows replies by the interactions that asked for them. The process that writes a
reply decides who may stop it, since custom ids can be forged.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from bot.chat.reply.reply_control import ReplyControl
from bot.errors import BotError, DatabaseUnavailable
from bot.i18n.language import gettext as _
from bot.storage import translate_database_errors
from models.database import Database
from models.queries.replies import stop_requests
from models.types import DialogKey, StopRequester

log = structlog.get_logger(__name__)

POLL_INTERVAL = 0.5
"""Seconds between two looks for requests."""
ANSWER_TIMEOUT = 4.0
"""Seconds after which a request that no process has taken counts as too late."""
_QUERY_TIMEOUT = 10.0  # seconds; a connection that hangs must not end the looks
_LINGER = 10.0
"""Seconds for which requests for a reply that was stopped are still taken. Discord may send one click to two processes,
and a member may click twice: the request may be stored only when the reply has ended."""
_REMEMBERED = 1000  # replies that ended here


class NotTheAsker(BotError):
    """A click on Stop under the reply to someone else."""

    def __init__(self) -> None:
        super().__init__(_("Only the person who asked can stop this answer."))


@dataclass(frozen=True, slots=True)
class _RunningReply:
    key: DialogKey
    control: ReplyControl


class StopRequests:
    """The replies that this process writes, and how any process stops them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._running: dict[int, _RunningReply] = {}
        self._stopped: dict[int, float] = {}  # until when requests for them are taken, by the loop's clock
        self._ended: OrderedDict[int, None] = OrderedDict()
        self._poller: asyncio.Task[None] | None = None
        self._failing = False

    @contextmanager
    def stoppable(self, interaction_id: int | None, key: DialogKey, control: ReplyControl) -> Iterator[None]:
        """In this block, `control` writes the reply to this interaction of `key`. None: it has no Stop button."""
        if interaction_id is None:
            yield
            return
        self._running[interaction_id] = _RunningReply(key, control)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="stop-requests")
        try:
            yield
        finally:
            del self._running[interaction_id]
            if control.reason == "stopped":
                self._stopped[interaction_id] = asyncio.get_running_loop().time() + _LINGER
            else:
                self._ended[interaction_id] = None
                if len(self._ended) > _REMEMBERED:
                    self._ended.popitem(last=False)

    async def stop(self, interaction_id: int, by: StopRequester) -> bool:
        """Stop the reply to this interaction, in whichever process. False if no process writes it any more.

        Raises NotTheAsker if this process knows that `by` may not, and the DatabaseUnavailable of `models` if only
        another process may know the reply.
        """
        if (running := self._running.get(interaction_id)) is not None:
            if not by.may_stop(running.key):
                raise NotTheAsker()
            return _interrupt(running.control)
        if interaction_id in self._stopped:
            return True
        if interaction_id in self._ended:
            return False
        await self._database.run(
            lambda session: stop_requests.request_stop(
                session, interaction_id=interaction_id, by=by, now=datetime.now(UTC)
            ),
            brief=True,
        )
        deadline = asyncio.get_running_loop().time() + ANSWER_TIMEOUT
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(POLL_INTERVAL)
            if (interaction_id, by) not in await self._requested({interaction_id}):
                return True
        return not await self._delete({interaction_id}, by.user_id)

    def stop_where(self, applies: Callable[[DialogKey], bool]) -> frozenset[int]:
        """Stop the replies of this process to whom this applies, also those that still wait; return what asked."""
        found = [(each, reply) for each, reply in self._running.items() if applies(reply.key)]
        for _each, reply in found:
            _interrupt(reply.control)
        return frozenset(each for each, _reply in found)

    async def close(self) -> None:
        """Stop looking; the database may be closed after this."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)

    async def _poll(self) -> None:
        while watched := self._watched():
            try:
                async with asyncio.timeout(_QUERY_TIMEOUT):
                    with translate_database_errors():
                        await self._look(watched)
            except (DatabaseUnavailable, TimeoutError) as error:
                if not self._failing:
                    reason = error.reason if isinstance(error, DatabaseUnavailable) else "it does not answer"
                    log.warning("clicks on Stop in other processes are not seen", reason=reason)
                self._failing = True
            except Exception:
                log.exception("looking for clicks on Stop failed, and is tried again")
            else:
                self._failing = False
            await asyncio.sleep(POLL_INTERVAL)

    async def _look(self, watched: frozenset[int]) -> None:
        """Stop the replies that other processes were asked to stop, and confirm it by deleting the requests."""
        requested = await self._requested(watched)
        stopped = {each for each, by in requested if each in self._stopped or self._interrupt_running(each, by)}
        if stopped:
            log.info("replies were stopped through another process", replies=len(stopped))
            await self._delete(stopped)

    def _interrupt_running(self, interaction_id: int, by: StopRequester) -> bool:
        running = self._running.get(interaction_id)
        return running is not None and by.may_stop(running.key) and _interrupt(running.control)

    def _watched(self) -> frozenset[int]:
        now = asyncio.get_running_loop().time()
        self._stopped = {each: until for each, until in self._stopped.items() if until > now}
        return frozenset(self._running) | frozenset(self._stopped)

    async def _requested(self, interaction_ids: frozenset[int] | set[int]) -> frozenset[tuple[int, StopRequester]]:
        async with self._database.read() as session:
            return await stop_requests.requested_stops(session, interaction_ids=interaction_ids)

    async def _delete(self, interaction_ids: set[int], user_id: int | None = None) -> frozenset[int]:
        return await self._database.run(
            lambda session: stop_requests.delete_stop_requests(
                session, interaction_ids=interaction_ids, user_id=user_id
            ),
            brief=True,
        )


def _interrupt(control: ReplyControl) -> bool:
    """Stop a reply; True if it is stopped now or was stopped before."""
    return control.reason == "stopped" or control.interrupt("stopped")
