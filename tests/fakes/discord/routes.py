"""What the paths of the fake Discord do: interactions and their answers, channel messages, commands.

Keeps Discord's rules about interactions: an acknowledgement within 3 s and only once, of a type that fits, and who sees
the answer fixed by it.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from tests.fakes.discord.rest import Handler, Rest, answer
from tests.fakes.discord.rules import Refused
from tests.fakes.discord.state import EPHEMERAL, LOADING, Json, Message, snowflake

ACK_SECONDS = 3.0
CALLBACKS = {2: {4, 5, 9}, 3: {4, 5, 6, 7, 9}, 4: {8}, 5: {4, 5, 6, 7}}  # by type of interaction


async def callback(rest: Rest, request: web.Request, given: Json) -> web.Response:
    interaction = rest.interactions.get(int(given["interaction_id"]))
    if interaction is None or interaction.token != given["interaction_token"]:
        raise Refused(404, 10062)
    if interaction.acknowledged is not None:
        raise Refused(400, 40060)
    if rest.now() - interaction.created > ACK_SECONDS:
        raise Refused(404, 10062)
    kind, data = given["body"]["type"], given["body"].get("data") or {}
    if kind not in CALLBACKS[interaction.type]:
        raise Refused(400, 50035)
    shown: Message | None = None
    if kind == 4:
        shown = rest.create(interaction.channel, data, given["files"])
    elif kind == 5:
        shown = Message(interaction.channel, rest.bot, flags=LOADING | (data.get("flags") or 0) & EPHEMERAL)
        rest.messages[shown.id] = shown
    elif kind in (6, 7):
        shown = interaction.message
        if kind == 7 and shown:
            rest.write(shown, data, given["files"])
    elif kind == 9:
        interaction.modal = data
    if kind in (4, 5):
        interaction.message = None
    interaction.original = shown
    interaction.acknowledged, interaction.acknowledged_at = kind, rest.now()
    if request.query.get("with_response") not in ("1", "true"):
        return answer(None, 204)
    about = {"id": str(interaction.id), "type": interaction.type}
    if shown:
        about |= {
            "response_message_id": str(shown.id),
            "response_message_loading": shown.loading,
            "response_message_ephemeral": shown.ephemeral,
        }
    resource: Json = {"type": kind}
    if shown and kind in (4, 7):
        resource["message"] = shown.json()
    return answer({"interaction": about, "resource": resource})


async def get_answer(rest: Rest, request: web.Request, given: Json) -> web.Response:
    interaction = rest.by_token(given["webhook_token"])
    return answer(rest.message_of(interaction, given.get("message_id", "@original")).json())


async def edit_answer(rest: Rest, request: web.Request, given: Json) -> web.Response:
    interaction = rest.by_token(given["webhook_token"])
    message = rest.message_of(interaction, given.get("message_id", "@original"))
    return answer(rest.write(message, given["body"], given["files"]).json())


async def delete_answer(rest: Rest, request: web.Request, given: Json) -> web.Response:
    interaction = rest.by_token(given["webhook_token"])
    rest.message_of(interaction, given.get("message_id", "@original")).deleted = True
    return answer(None, 204)


async def follow_up(rest: Rest, request: web.Request, given: Json) -> web.Response:
    interaction = rest.by_token(given["webhook_token"])
    original = interaction.original
    if original and original.loading and not original.deleted:
        # The first follow-up fills the waiting message, and is as visible as that was made by the acknowledgement.
        message = rest.write(original, given["body"], given["files"])
    else:
        message = rest.create(interaction.channel, given["body"], given["files"])
        interaction.followups.append(message)
    return answer(message.json()) if request.query.get("wait") in ("1", "true") else answer(None, 204)


async def send_message(rest: Rest, request: web.Request, given: Json) -> web.Response:
    channel = rest.channels.get(int(given["channel_id"]))
    if channel is None:
        raise Refused(404, 10003)
    if not channel.bot_may_send:
        raise Refused(403, 50013 if channel.guild else 50007)
    return answer(rest.create(channel, given["body"], given["files"]).json())


async def edit_message(rest: Rest, request: web.Request, given: Json) -> web.Response:
    return answer(rest.write(_in_channel(rest, given), given["body"], given["files"]).json())


async def delete_message(rest: Rest, request: web.Request, given: Json) -> web.Response:
    _in_channel(rest, given).deleted = True
    return answer(None, 204)


def _in_channel(rest: Rest, given: Json) -> Message:
    message = rest.messages.get(int(given["message_id"]))
    if message is None or message.deleted or message.ephemeral or str(message.channel.id) != given["channel_id"]:
        raise Refused(404, 10008)
    return message


async def open_dm(rest: Rest, request: web.Request, given: Json) -> web.Response:
    recipient = given["body"]["recipient_id"]
    for channel in rest.channels.values():
        if channel.recipient and str(channel.recipient.id) == str(recipient):
            return answer(channel.json())
    raise Refused(400, 50007)


async def me(rest: Rest, request: web.Request, given: Json) -> web.Response:
    return answer({**rest.bot.json(), "verified": True, "mfa_enabled": True, "locale": "en-US", "email": None})


async def application(rest: Rest, request: web.Request, given: Json) -> web.Response:
    return answer(
        {
            "id": str(rest.bot.id), "name": rest.bot.name, "icon": None, "description": "", "summary": "",
            "bot_public": True, "bot_require_code_grant": False, "verify_key": "00" * 32, "flags": 0, "hook": True,
            "owner": {"id": "1", "username": "owner", "discriminator": "0", "avatar": None}, "team": None,
        }
    )  # fmt: skip


async def gateway(rest: Rest, request: web.Request, given: Json) -> web.Response:
    limit = {"total": 1000, "remaining": 999, "reset_after": 0, "max_concurrency": 1}
    return answer({"url": rest.gateway_url, "shards": 1, "session_start_limit": limit})


async def list_commands(rest: Rest, request: web.Request, given: Json) -> web.Response:
    return answer(rest.commands)


async def put_commands(rest: Rest, request: web.Request, given: Json) -> web.Response:
    defaults = {"type": 1, "default_member_permissions": None, "nsfw": False, "contexts": None, "options": []}
    commands = []
    for command in given["body"]:
        ids = {"id": str(snowflake()), "application_id": str(rest.bot.id), "version": str(snowflake())}
        stored = {**defaults, "integration_types": [0], **_echo(command), **ids}
        stored.pop("dm_permission", None)
        if stored["default_member_permissions"] is not None:
            stored["default_member_permissions"] = str(stored["default_member_permissions"])
        commands.append(stored)
    rest.commands = commands
    return answer(commands)


def _echo(node: Any) -> Any:
    """What Discord gives back of a command: without what says nothing."""
    if isinstance(node, dict):
        return {key: _echo(value) for key, value in node.items() if value not in (None, False, [], {})}
    return [_echo(value) for value in node] if isinstance(node, list) else node


ORIGINAL = "/webhooks/{webhook_id}/{webhook_token}/messages/@original"
FOLLOWUP = "/webhooks/{webhook_id}/{webhook_token}/messages/{message_id}"
CHANNEL_MESSAGE = "/channels/{channel_id}/messages/{message_id}"
COMMANDS = "/applications/{application_id}/commands"
ROUTES: dict[tuple[str, str], Handler] = {
    ("POST", "/interactions/{interaction_id}/{interaction_token}/callback"): callback,
    **{("GET", path): get_answer for path in (ORIGINAL, FOLLOWUP)},
    **{("PATCH", path): edit_answer for path in (ORIGINAL, FOLLOWUP)},
    **{("DELETE", path): delete_answer for path in (ORIGINAL, FOLLOWUP)},
    ("POST", "/webhooks/{webhook_id}/{webhook_token}"): follow_up,
    ("POST", "/channels/{channel_id}/messages"): send_message,
    ("PATCH", CHANNEL_MESSAGE): edit_message,
    ("DELETE", CHANNEL_MESSAGE): delete_message,
    ("POST", "/users/@me/channels"): open_dm,
    ("GET", "/users/@me"): me,
    ("GET", "/oauth2/applications/@me"): application,
    ("GET", "/applications/@me"): application,
    ("GET", "/gateway"): gateway,
    ("GET", "/gateway/bot"): gateway,
    ("GET", COMMANDS): list_commands,
    ("PUT", COMMANDS): put_commands,
}
