"""Discord's endpoints for threads: start one, ask whether it still exists; what each refusal means to a member.

Knows Discord's REST API and its error codes through discord.py's HTTP client; knows nothing of conversations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import discord
from discord.http import HTTPClient, Route

from bot.errors import BotError
from bot.i18n.language import N_, NP_, pgettext
from bot.i18n.language import gettext as _

MAX_THREAD_NAME = 100
_PUBLIC_THREAD, _NEWS_THREAD = 11, 10
_HAS_THREAD = 160004
_MISSING_ACCESS, _MISSING_PERMISSIONS = 50001, 50013
_UNKNOWN_CHANNEL = 10003
_NEEDED = {
    "view_channel": NP_("permission", "View Channel"),
    "create_public_threads": NP_("permission", "Create Public Threads"),
    "send_messages_in_threads": NP_("permission", "Send Messages in Threads"),
}
_AT_MESSAGE = {"read_message_history": NP_("permission", "Read Message History")}
_REFUSALS: Mapping[int, str] = {
    _MISSING_ACCESS: N_("I may not see this channel any more, so I cannot start a thread in it."),
    _MISSING_PERMISSIONS: N_("I may not start threads here: I need the permission Create Public Threads."),
    160002: N_("I may not start a thread at this answer: I need the permission Read Message History."),
    160006: N_("This guild has as many active threads as Discord allows. Please archive one first."),
    10008: N_("This answer was deleted, so no thread can begin at it."),
    10003: N_("This channel does not exist any more."),
    50024: N_("No thread can be started here."),
    50068: N_("No thread can be started at this message."),
    200000: N_("This guild's AutoMod does not allow this name. Please choose another one."),
    200001: N_("This guild's AutoMod does not allow this name. Please choose another one."),
}


def check_permissions(allowed: discord.Permissions, *, at_message: bool) -> None:
    """Raise BotError, with their names, if the bot lacks permissions to start a thread and to talk in it."""
    if not allowed.value:
        return  # Discord did not say: try
    needed = _NEEDED | (_AT_MESSAGE if at_message else {})
    missing = [pgettext("permission", shown) for name, shown in needed.items() if not getattr(allowed, name)]
    if missing:
        names = pgettext("between permissions", " and ").join(missing)
        raise BotError(_("I cannot talk in a thread here: I need the permission {names}.").format(names=names))


class ThreadApi:
    """Threads of one bot's guilds."""

    def __init__(self, http: HTTPClient) -> None:
        self._http = http

    async def start(self, channel_id: int, name: str, *, in_news: bool = False) -> int:
        """Start a public thread in a channel and return its id. Raises BotError if Discord refuses it."""
        route = Route("POST", "/channels/{channel_id}/threads", channel_id=channel_id)
        body = {"name": name, "type": _NEWS_THREAD if in_news else _PUBLIC_THREAD}
        with _refusals():
            data: Any = await self._http.request(route, json=body)
        return int(data["id"])

    async def start_at(self, channel_id: int, message_id: int, name: str) -> int:
        """Start a thread under a message, or return the one that it has. Raises BotError if Discord refuses it."""
        route = Route(
            "POST",
            "/channels/{channel_id}/messages/{message_id}/threads",
            channel_id=channel_id,
            message_id=message_id,
        )
        with _refusals():
            try:
                data: Any = await self._http.request(route, json={"name": name})
            except discord.HTTPException as error:
                if error.code != _HAS_THREAD:
                    raise
                return message_id  # a thread under a message has its id
        return int(data["id"])

    async def is_gone(self, channel_id: int) -> bool:
        """Whether a channel was deleted, and not only hidden from the bot."""
        try:
            await self._http.request(Route("GET", "/channels/{channel_id}", channel_id=channel_id))
        except discord.NotFound as error:
            return error.code == _UNKNOWN_CHANNEL
        except discord.Forbidden:
            return False
        return False


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except discord.HTTPException as error:
        if error.code not in _REFUSALS:
            raise
        raise BotError(_(_REFUSALS[error.code]), reason=f"{error.status} {error.code}") from None
