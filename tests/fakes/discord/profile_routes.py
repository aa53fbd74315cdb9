"""What the fake Discord does with the bot's own profile in a guild: its nickname and its picture there."""

from __future__ import annotations

import base64
import binascii
import io
import re

from aiohttp import web
from PIL import Image, UnidentifiedImageError

from tests.fakes.discord.rest import Handler, Rest, json_response
from tests.fakes.discord.rules import ApiError, invalid
from tests.fakes.discord.state import Guild, Json, Permission

_DATA_URI = re.compile(r"data:(image/(?:png|jpeg|gif|webp));base64,([A-Za-z0-9+/]+={0,2})")
_FORBIDDEN = ("@", "#", ":", "```", "discord")
_MAX_BYTES = 10 * 2**20


async def edit_own_member(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Change nickname and picture; the gateway tells the bot of its own member, whatever its intents are."""
    guild = rest.guilds.get(int(given["guild_id"]))
    if guild is None or not guild.joined:
        raise ApiError(404, 10004)
    body: Json = given["body"]
    if "nick" in body and not guild.permissions(rest.bot) & Permission.CHANGE_NICKNAME:
        raise ApiError(403, 50013)
    avatar = picture(body["avatar"]) if body.get("avatar") is not None else None
    if "nick" in body:
        _set_nickname(guild, rest.bot.id, body["nick"])
    if "avatar" in body:
        guild.bot_avatar = avatar
    member = {**guild.member(rest.bot), "user": rest.bot.json()}
    await rest.gateway.dispatch("GUILD_MEMBER_UPDATE", {**member, "guild_id": str(guild.id)})
    return json_response(member)


def _set_nickname(guild: Guild, user_id: int, nick: str | None) -> None:
    if not nick:
        guild.nicknames.pop(user_id, None)
        return
    if len(nick) > 32 or nick.lower() in ("everyone", "here") or any(each in nick.lower() for each in _FORBIDDEN):
        raise invalid("nick", "This nickname is not allowed.")
    guild.nicknames[user_id] = nick


def picture(uri: str) -> bytes:
    """The picture in a data URI, if Discord takes it."""
    found = _DATA_URI.fullmatch(uri)
    try:
        data = base64.b64decode(found[2], validate=True) if found else b""
        with Image.open(io.BytesIO(data)) as image:
            kind = (image.format or "").lower()
    except (binascii.Error, UnidentifiedImageError):
        raise invalid("avatar", "Unsupported image type given") from None
    if found is None or kind != found[1].removeprefix("image/"):
        raise invalid("avatar", "Unsupported image type given")
    if len(data) > _MAX_BYTES:
        raise invalid("avatar", "File cannot be larger than 10240.0 kb.")
    return data


ROUTES: dict[tuple[str, str], Handler] = {("PATCH", "/guilds/{guild_id}/members/@me"): edit_own_member}
