"""Discord's endpoint for the bot's own nickname and picture in a guild."""

from __future__ import annotations

import base64

import discord
import structlog
from discord.http import HTTPClient, Route

from bot.discord_app.delivery import DISCORD_ERRORS, describe_error
from bot.discord_app.rest.account_names import nickname
from models.types import ProfileProblem, WantedProfile

log = structlog.get_logger(__name__)

_INVALID_FORM, _MISSING_PERMISSIONS = 50035, 50013
_TOO_FAST = "RATE_LIMIT"


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
