"""What each path of the fake Discord does: interaction callbacks and webhooks, channel messages, commands.

Enforces Discord's rules for interactions: one callback, within 3 s, of a type that fits; a deferred response is
ephemeral if its callback says so, whatever the follow-up says.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from tests.fakes.discord.rest import Handler, Rest, json_response
from tests.fakes.discord.rules import ApiError
from tests.fakes.discord.state import EPHEMERAL, LOADING, Json, Message, snowflake

CALLBACK_DEADLINE = 3.0  # seconds
CALLBACK_TYPES = {
    2: {4, 5, 9},
    3: {4, 5, 6, 7, 9},
    4: {8},
    5: {4, 5, 6, 7},
}  # allowed callback types by interaction type


async def callback(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Respond to an interaction: a message (4), a defer (5, 6), an edit (7), autocomplete (8) or a modal (9)."""
    interaction = rest.interactions.get(int(given["interaction_id"]))
    if interaction is None or interaction.token != given["interaction_token"]:
        raise ApiError(404, 10062)
    if interaction.callback_type is not None:
        raise ApiError(400, 40060)
    if rest.now() - interaction.created_at > CALLBACK_DEADLINE:
        raise ApiError(404, 10062)
    kind, data = given["body"]["type"], given["body"].get("data") or {}
    if kind not in CALLBACK_TYPES[interaction.type]:
        raise ApiError(400, 50035)
    response: Message | None = None
    if kind == 4:
        response = rest.create_message(interaction.channel, data, given["files"])
    elif kind == 5:
        response = Message(interaction.channel, rest.bot, flags=LOADING | (data.get("flags") or 0) & EPHEMERAL)
        rest.messages[response.id] = response
    elif kind in (6, 7):
        response = interaction.message
        if kind == 7 and response:
            rest.update_message(response, data, given["files"])
    elif kind == 9:
        interaction.modal = data
    if kind in (4, 5):
        interaction.message = None
    interaction.original = response
    interaction.callback_type = kind
    if request.query.get("with_response") not in ("1", "true"):
        return json_response(None, 204)
    about = {"id": str(interaction.id), "type": interaction.type}
    if response:
        about |= {
            "response_message_id": str(response.id),
            "response_message_loading": response.loading,
            "response_message_ephemeral": response.ephemeral,
        }
    resource: Json = {"type": kind}
    if response and kind in (4, 7):
        resource["message"] = response.json()
    return json_response({"interaction": about, "resource": resource})


async def get_webhook_message(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Read a response or follow-up."""
    interaction = rest.interaction_by_token(given["webhook_token"])
    return json_response(rest.find_message(interaction, given.get("message_id", "@original")).json())


async def edit_webhook_message(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Edit a response or follow-up."""
    interaction = rest.interaction_by_token(given["webhook_token"])
    message = rest.find_message(interaction, given.get("message_id", "@original"))
    return json_response(rest.update_message(message, given["body"], given["files"]).json())


async def delete_webhook_message(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Delete a response or follow-up."""
    interaction = rest.interaction_by_token(given["webhook_token"])
    rest.find_message(interaction, given.get("message_id", "@original")).deleted = True
    return json_response(None, 204)


async def send_follow_up(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Send a follow-up."""
    interaction = rest.interaction_by_token(given["webhook_token"])
    original = interaction.original
    if original and original.loading and not original.deleted:
        # The first follow-up replaces the pending response, and is ephemeral if the defer was.
        message = rest.update_message(original, given["body"], given["files"])
    else:
        message = rest.create_message(interaction.channel, given["body"], given["files"])
        interaction.followups.append(message)
    return json_response(message.json()) if request.query.get("wait") in ("1", "true") else json_response(None, 204)


async def send_message(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Send a message to a channel."""
    channel = rest.channels.get(int(given["channel_id"]))
    if channel is None:
        raise ApiError(404, 10003)
    if not channel.bot_may_send:
        raise ApiError(403, 50013 if channel.guild else 50007)
    return json_response(rest.create_message(channel, given["body"], given["files"]).json())


async def edit_message(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Edit a channel's message."""
    return json_response(rest.update_message(_find_channel_message(rest, given), given["body"], given["files"]).json())


async def delete_message(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Delete a channel's message."""
    _find_channel_message(rest, given).deleted = True
    return json_response(None, 204)


def _find_channel_message(rest: Rest, given: Json) -> Message:
    message = rest.messages.get(int(given["message_id"]))
    if message is None or message.deleted or message.ephemeral or str(message.channel.id) != given["channel_id"]:
        raise ApiError(404, 10008)
    return message


async def open_dm(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Open direct messages with a user who has written to the bot before."""
    recipient = given["body"]["recipient_id"]
    for channel in rest.channels.values():
        if channel.recipient and str(channel.recipient.id) == str(recipient):
            return json_response(channel.json())
    raise ApiError(400, 50007)


async def current_user(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """The bot user."""
    return json_response({**rest.bot.json(), "verified": True, "mfa_enabled": True, "locale": "en-US", "email": None})


async def application(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """The application of the bot."""
    return json_response(
        {
            "id": str(rest.bot.id), "name": rest.bot.name, "icon": None, "description": "", "summary": "",
            "bot_public": True, "bot_require_code_grant": False, "verify_key": "00" * 32, "flags": 0, "hook": True,
            "owner": {"id": "1", "username": "owner", "discriminator": "0", "avatar": None}, "team": None,
        }
    )  # fmt: skip


async def gateway(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Where the gateway is."""
    limit = {"total": 1000, "remaining": 999, "reset_after": 0, "max_concurrency": 1}
    return json_response({"url": rest.gateway_url, "shards": 1, "session_start_limit": limit})


async def list_commands(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """The registered commands."""
    return json_response(rest.commands)


async def put_commands(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Replace the registered commands."""
    defaults = {"type": 1, "default_member_permissions": None, "nsfw": False, "contexts": None, "options": []}
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


ORIGINAL = "/webhooks/{webhook_id}/{webhook_token}/messages/@original"
FOLLOWUP = "/webhooks/{webhook_id}/{webhook_token}/messages/{message_id}"
CHANNEL_MESSAGE = "/channels/{channel_id}/messages/{message_id}"
COMMANDS = "/applications/{application_id}/commands"
ROUTES: dict[tuple[str, str], Handler] = {
    ("POST", "/interactions/{interaction_id}/{interaction_token}/callback"): callback,
    **{("GET", path): get_webhook_message for path in (ORIGINAL, FOLLOWUP)},
    **{("PATCH", path): edit_webhook_message for path in (ORIGINAL, FOLLOWUP)},
    **{("DELETE", path): delete_webhook_message for path in (ORIGINAL, FOLLOWUP)},
    ("POST", "/webhooks/{webhook_id}/{webhook_token}"): send_follow_up,
    ("POST", "/channels/{channel_id}/messages"): send_message,
    ("PATCH", CHANNEL_MESSAGE): edit_message,
    ("DELETE", CHANNEL_MESSAGE): delete_message,
    ("POST", "/users/@me/channels"): open_dm,
    ("GET", "/users/@me"): current_user,
    ("GET", "/oauth2/applications/@me"): application,
    ("GET", "/applications/@me"): application,
    ("GET", "/gateway"): gateway,
    ("GET", "/gateway/bot"): gateway,
    ("GET", COMMANDS): list_commands,
    ("PUT", COMMANDS): put_commands,
}
