"""The paths of the fake Discord, and what those about the application do: who it is, its commands, the gateway."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from tests.fakes.discord import interaction_routes, message_routes, profile_routes, thread_routes, webhook_routes
from tests.fakes.discord.forms import check_commands
from tests.fakes.discord.gateway import GUILD_MEMBERS, MESSAGE_CONTENT
from tests.fakes.discord.rest import Handler, Rest, json_response
from tests.fakes.discord.rules import ApiError
from tests.fakes.discord.state import Json, snowflake

MEMBERS_LIMITED, CONTENT_LIMITED = 1 << 15, 1 << 19  # flags of applications in fewer than 100 guilds


async def current_user(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """The bot user."""
    return json_response({**rest.bot.json(), "verified": True, "mfa_enabled": True, "locale": "en-US", "email": None})


def application_flags(rest: Rest) -> int:
    """Which privileged intents the owner has switched on."""
    allowed = rest.gateway.allowed_intents
    return (MEMBERS_LIMITED if allowed & GUILD_MEMBERS else 0) | (CONTENT_LIMITED if allowed & MESSAGE_CONTENT else 0)


async def application(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """The application of the bot."""
    return json_response(
        {
            "id": str(rest.bot.id), "name": rest.bot.name, "icon": None, "description": "", "summary": "",
            "bot_public": True, "bot_require_code_grant": False, "verify_key": "00" * 32, "hook": True,
            "flags": application_flags(rest), "team": None,
            "owner": {"id": "1", "username": "owner", "discriminator": "0", "avatar": None},
        }
    )  # fmt: skip


async def gateway(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Where the gateway is."""
    limit = {"total": 1000, "remaining": 999, "reset_after": 0, "max_concurrency": rest.max_concurrency}
    return json_response({"url": rest.gateway.url, "shards": 1, "session_start_limit": limit})


async def list_guilds(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """A page of the guilds that the bot is in, with what it may do there as far as no channel says otherwise."""
    limit, after = int(request.query.get("limit", "200")), int(request.query.get("after", "0"))
    if not 1 <= limit <= 200:
        raise ApiError(400, 50035)
    joined = sorted(
        (each for each in rest.guilds.values() if each.joined and each.id > after), key=lambda each: each.id
    )
    page = [
        {"id": str(each.id), "name": each.name, "icon": None, "owner": False, "features": [],
         "permissions": str(int(each.permissions(rest.bot)))}
        for each in joined[:limit]
    ]  # fmt: skip
    return json_response(page)


async def list_commands(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """The registered commands; with their translations only if the request asks for these."""
    wanted = request.query.get("with_localizations") == "true"
    return json_response(rest.commands if wanted else [_without_translations(each) for each in rest.commands])


def _without_translations(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_translations(each) for each in node]
    if not isinstance(node, dict):
        return node
    return {key: _without_translations(value) for key, value in node.items() if not key.endswith("_localizations")}


async def put_commands(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Replace the registered commands."""
    check_commands(given["body"])
    defaults = {"type": 1, "description": "", "default_member_permissions": None, "nsfw": False, "contexts": None,
                "options": []}  # fmt: skip
    commands = []
    for command in given["body"]:
        ids = {"id": str(snowflake()), "application_id": str(rest.bot.id), "version": str(snowflake())}
        stored = {**defaults, "integration_types": [0], **_without_defaults(command), **ids}
        stored.pop("dm_permission", None)
        if stored["default_member_permissions"] is not None:
            stored["default_member_permissions"] = str(stored["default_member_permissions"])
        commands.append(stored)
    rest.commands = commands
    return json_response(commands)


def _without_defaults(node: Any) -> Any:
    """A command as Discord returns it: without empty and false fields."""
    if isinstance(node, dict):
        return {key: _without_defaults(value) for key, value in node.items() if value not in (None, False, [], {})}
    return [_without_defaults(value) for value in node] if isinstance(node, list) else node


COMMANDS = "/applications/{application_id}/commands"
ROUTES: dict[tuple[str, str], Handler] = {
    **interaction_routes.ROUTES,
    **message_routes.ROUTES,
    **profile_routes.ROUTES,
    **thread_routes.ROUTES,
    **webhook_routes.ROUTES,
    ("GET", "/users/@me"): current_user,
    ("GET", "/users/@me/guilds"): list_guilds,
    ("GET", "/oauth2/applications/@me"): application,
    ("GET", "/applications/@me"): application,
    ("GET", "/gateway"): gateway,
    ("GET", "/gateway/bot"): gateway,
    ("GET", COMMANDS): list_commands,
    ("PUT", COMMANDS): put_commands,
}
