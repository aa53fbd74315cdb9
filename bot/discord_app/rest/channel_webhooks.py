"""The one webhook that the bot has in a channel: found again, created at first use, left alone where that fails.

A channel in which it did not work is tried again later; what is wrong there is said once in the log and, by
`/persona show`, to members. Webhooks of others are never touched. Tokens are kept in memory only.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import discord
import structlog

from bot.discord_app.delivery import DISCORD_ERRORS, describe_error
from bot.discord_app.rest.account_names import webhook_name
from bot.discord_app.rest.webhook_api import Webhook, WebhookApi, WebhookMoved
from bot.discord_app.rest.webhook_pictures import WebhookPictures
from bot.keyed_locks import KeyedLocks
from models.types import WantedProfile

log = structlog.get_logger(__name__)

WebhookProblem = Literal["forbidden", "full", "gone", "refused", "away"]
_UNKNOWN_CHANNEL, _UNKNOWN_WEBHOOK, _TOO_MANY, _INVALID_TOKEN, _INVALID_FORM = 10003, 10015, 30007, 50027, 50035
_DEFAULT_NAME = "Personas"
_PAUSES: dict[WebhookProblem, float] = {"forbidden": 600.0, "full": 600.0, "gone": 60.0, "refused": 60.0, "away": 30.0}
"""Seconds until a channel is tried again."""
_PATIENCE = 4.0
"""Seconds for which an answer waits for its webhook."""
_MAX_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class _Failure:
    problem: WebhookProblem
    until: float


class ChannelWebhooks:
    """The webhooks of one bot."""

    def __init__(
        self,
        api: WebhookApi,
        own_id: Callable[[], int],
        own_name: Callable[[], str] = lambda: "",
        may_use: Callable[[int, int, bool], bool | None] = lambda guild_id, channel_id, in_thread: None,
        pictures: WebhookPictures | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`may_use`: whether the bot has the permissions in a channel of a guild, or in its threads; None if that is
        not known. A webhook would write also where the bot may not: that would not be what an admin has chosen.
        """
        self.api = api
        self.pictures = pictures or WebhookPictures(api, _no_picture)
        self._own_id = own_id
        self._own_name = own_name
        self._may_use = may_use
        self._clock = clock
        self._locks = KeyedLocks[int]()
        self._by_channel: OrderedDict[int, Webhook] = OrderedDict()
        self._by_id: OrderedDict[int, Webhook] = OrderedDict()
        self._failures: OrderedDict[int, _Failure] = OrderedDict()

    async def speaking_in(self, guild_id: int, channel_id: int, *, in_thread: bool = False) -> Webhook | None:
        """The webhook of a channel, created if there is none. None where that does not work now.

        `in_thread`: it is to speak in a thread of this channel.
        """
        if self._may_use(guild_id, channel_id, in_thread) is False:
            if channel_id not in self._failures:
                self._fail(channel_id, "forbidden", "a permission is missing", pause=0.0)
            return None
        async with self._locks.hold(channel_id):
            if (known := self._by_channel.get(channel_id)) is not None:
                return known
            if self._failure(channel_id) is not None:
                return None
            try:
                async with asyncio.timeout(_PATIENCE):
                    webhook = await self._find_or_create(channel_id)
            except DISCORD_ERRORS as error:
                self._fail(channel_id, problem_of(error), describe_error(error))
                return None
            self._failures.pop(channel_id, None)
            self._keep(webhook)
            return webhook

    async def by_id(self, webhook_id: int) -> Webhook | None:
        """A webhook that messages were sent with; None if it is gone. Raises what Discord's errors raise."""
        if (known := self._by_id.get(webhook_id)) is not None:
            return known
        async with self._locks.hold(webhook_id):
            if (known := self._by_id.get(webhook_id)) is not None:
                return known
            try:
                found = await self.api.find(webhook_id, application_id=self._own_id())
            except (discord.NotFound, discord.Forbidden):
                return None
            if found is not None:
                self._keep(found)
            return found

    def failed(self, webhook: Webhook, error: discord.HTTPException | WebhookMoved) -> None:
        """Discord refused a message of this webhook: note it if that is its fault, and forget a webhook that is gone.

        A webhook that is still there is used for the next message: other personas may have names that Discord takes.
        """
        problem = problem_of(error)
        if isinstance(error, discord.HTTPException) and error.code == _UNKNOWN_CHANNEL:
            self._forget(webhook)  # the thread was deleted, or an admin gave the webhook another channel: look anew
        if problem == "away":
            return
        if problem == "gone":
            self._forget(webhook)
        self._fail(webhook.channel_id, problem, describe_error(error))

    def _forget(self, webhook: Webhook) -> None:
        self._by_channel.pop(webhook.channel_id, None)
        self._by_id.pop(webhook.webhook_id, None)

    def problem(self, guild_id: int, channel_id: int, *, in_thread: bool = False) -> WebhookProblem | None:
        """Why personas do not speak through a webhook in this channel now; None if they do, as far as is known."""
        forbidden = self._may_use(guild_id, channel_id, in_thread) is False
        return "forbidden" if forbidden else self._failure(channel_id)

    def _failure(self, channel_id: int) -> WebhookProblem | None:
        failure = self._failures.get(channel_id)
        return None if failure is None or failure.until <= self._clock() else failure.problem

    def is_own(self, webhook_id: int) -> bool:
        """Whether this is known to be a webhook of the bot."""
        return webhook_id in self._by_id

    async def _find_or_create(self, channel_id: int) -> Webhook:
        own_id = self._own_id()
        if found := await self.api.of_channel(channel_id, application_id=own_id):
            return found[0]
        created = await self.api.create(
            channel_id, webhook_name(self._own_name()) or _DEFAULT_NAME, application_id=own_id
        )
        if created is None:
            raise OSError("Discord gave no token for the webhook")
        first = next(iter(await self.api.of_channel(channel_id, application_id=own_id)), created)
        if first != created:  # another process was faster: one is enough
            await self.api.remove(created)
        return first

    def _keep(self, webhook: Webhook) -> None:
        for kept, key in ((self._by_channel, webhook.channel_id), (self._by_id, webhook.webhook_id)):
            kept[key] = webhook
            kept.move_to_end(key)
            if len(kept) > _MAX_KEPT:
                kept.popitem(last=False)

    def _fail(self, channel_id: int, problem: WebhookProblem, error: str, *, pause: float | None = None) -> None:
        """Remember what is wrong, and say so if it is another thing than before."""
        before = self._failures.pop(channel_id, None)
        if before is None or before.problem != problem:
            log.warning(
                "personas cannot speak through a webhook here; their names stand above their answers",
                channel=channel_id,
                problem=problem,
                error=error,
            )
        self._failures[channel_id] = _Failure(problem, self._clock() + (_PAUSES[problem] if pause is None else pause))
        if len(self._failures) > _MAX_KEPT:
            self._failures.popitem(last=False)


async def _no_picture(guild_id: int) -> WantedProfile:
    return WantedProfile(None, "", None, "")


def problem_of(error: BaseException) -> WebhookProblem:
    """What Discord has against a webhook, or one of its messages."""
    if isinstance(error, WebhookMoved):
        return "gone"
    if not isinstance(error, discord.HTTPException):
        return "away"
    if error.code == _TOO_MANY:
        return "full"
    if error.code in (_UNKNOWN_WEBHOOK, _INVALID_TOKEN):
        return "gone"
    if error.code == _INVALID_FORM:
        return "refused"
    return "forbidden" if error.status == 403 else "away"
