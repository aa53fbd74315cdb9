"""Asks Discord's REST API as the bot, a few times and without waiting long. Knows no discord.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import aiohttp

from bot.settings import Settings
from bot.terminal.help_texts import version

_BASE = "https://discord.com/api/v10"
_SECONDS = 8.0
_PAGE = 200


class Unreachable(Exception):
    """Discord could not be asked. The text says why, in words of ours."""


class Refused(Exception):
    """Discord answered with an error."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


@dataclass(frozen=True, slots=True)
class GuildLine:
    """A guild that the bot is in, and what it may do there before any channel says otherwise."""

    id: int
    name: str
    permissions: int


class DiscordApi:
    """A few requests with the bot's token. Raises Unreachable or Refused."""

    def __init__(self, settings: Settings, token: str) -> None:
        self._base = settings.discord_api_base or _BASE
        self._session = aiohttp.ClientSession(
            headers={
                "Authorization": f"Bot {token}",
                "User-Agent": f"DiscordBot (https://discord.com, {version()}) guildllama",
            },
            timeout=aiohttp.ClientTimeout(total=_SECONDS),
            trust_env=True,
        )
        self.clock: datetime | None = None
        """Discord's time at the last answer."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        """The JSON at this path."""
        try:
            async with self._session.get(self._base + path, params=params, allow_redirects=False) as response:
                if date := response.headers.get("Date"):
                    self.clock = _date(date)
                if response.status != 200:
                    raise Refused(response.status)
                return await response.json()
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise Unreachable(type(error).__name__) from None

    async def guilds(self) -> list[GuildLine]:
        """All guilds that the bot is in."""
        found: list[GuildLine] = []
        while True:
            after = {"after": str(found[-1].id)} if found else {}
            page = await self.get("/users/@me/guilds", {"limit": str(_PAGE), **after})
            found += [GuildLine(int(each["id"]), str(each["name"]), int(each["permissions"])) for each in page]
            if len(page) < _PAGE:
                return found


def _date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        return None
