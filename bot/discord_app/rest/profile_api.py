"""Discord's endpoint for the bot's own nickname and picture in a guild, and what a nickname may be."""

from __future__ import annotations

import base64
import re

import discord
import structlog
from discord.http import HTTPClient, Route

from bot.discord_app.delivery import DISCORD_ERRORS, describe_error
from models.types import ProfileProblem, WantedProfile

log = structlog.get_logger(__name__)

MAX_NICK = 32
_FORBIDDEN = re.compile(r"discord|clyde|```|[@#:]", re.IGNORECASE)
"""What Discord takes in no name of an account."""
_RESERVED = frozenset({"everyone", "here"})
_INVALID_FORM, _MISSING_PERMISSIONS = 50035, 50013
_TOO_FAST = "RATE_LIMIT"


def nickname(name: str) -> str | None:
    """The name of a persona as Discord takes it for an account; None if nothing of it is left."""
    kept = " ".join(_FORBIDDEN.sub(" ", name).split())
    while len(kept.encode("utf-16-le")) // 2 > MAX_NICK:
        kept = kept[:-1].rstrip()
    return None if not kept or kept.casefold() in _RESERVED else kept


class ProfileApi:
    """The bot's own profile in guilds."""

    def __init__(self, http: HTTPClient) -> None:
        self._http = http

    async def send(self, guild_id: int, profile: WantedProfile) -> ProfileProblem | None:
        """Show this name and picture in a guild; the bot's own ones where there are none."""
        avatar = None
        if profile.picture is not None:
            avatar = f"data:image/png;base64,{base64.b64encode(profile.picture).decode()}"
        route = Route("PATCH", "/guilds/{guild_id}/members/@me", guild_id=guild_id)
        try:
            await self._http.request(route, json={"nick": nickname(profile.name), "avatar": avatar})
        except DISCORD_ERRORS as error:
            log.warning("the profile in a guild was not changed", guild=guild_id, error=describe_error(error))
            return _problem(error)
        return None


def _problem(error: BaseException) -> ProfileProblem:
    if isinstance(error, discord.Forbidden) and error.code == _MISSING_PERMISSIONS:
        return "forbidden"
    if isinstance(error, discord.HTTPException) and error.status in (400, 403, 404):
        return "slower" if error.code == _INVALID_FORM and _TOO_FAST in error.text.upper() else "refused"
    return "slower"  # Discord is away or wants less: a later attempt sends it
