"""What the fake Discord does with webhooks of channels: list, create, read, delete, and the messages sent with them.

Enforces who may manage and see them, 15 in a channel, names, threads, and components only of an application's own
webhooks. Their messages reply to nothing, and no reply to them mentions anyone. Paths with the application's id instead
of a webhook's are those of interactions.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.fakes.discord import interaction_routes
from tests.fakes.discord.message_routes import find_channel, wake_thread
from tests.fakes.discord.messages import EPHEMERAL, Message, usable_components
from tests.fakes.discord.profile_routes import picture
from tests.fakes.discord.rest import Handler, Rest, json_response
from tests.fakes.discord.rules import ApiError, invalid, utf16_length
from tests.fakes.discord.state import Channel, Json, Permission, User, picture_hash, snowflake

MOST_WEBHOOKS, NAME_LENGTH = 15, 80
MANAGE = Permission.MANAGE_WEBHOOKS
EXECUTE_FIELDS = {"content", "username", "avatar_url", "tts", "embeds", "allowed_mentions", "components", "attachments",
                  "flags", "thread_name", "applied_tags", "poll"}  # fmt: skip
EDIT_FIELDS = EXECUTE_FIELDS - {"username", "avatar_url", "tts", "thread_name", "applied_tags"}


@dataclass(slots=True, eq=False)
class Webhook:
    """A webhook of a channel. `owner_id`: the application that made it; None for one that a person made."""

    channel: Channel
    name: str
    owner_id: int | None
    id: int = field(default_factory=snowflake)
    avatar: bytes | None = None
    token: str = field(default_factory=lambda: secrets.token_urlsafe(51))
    deleted: bool = False

    def json(self, rest: Rest) -> Json:
        """As Discord shows it to the bot: without the token if it is another application's."""
        guild = self.channel.guild
        data: Json = {"id": str(self.id), "type": 1, "name": self.name, "avatar": picture_hash(self.avatar),
                      "channel_id": str(self.channel.id), "guild_id": str(guild.id) if guild else None,
                      "application_id": str(self.owner_id) if self.owner_id else None}  # fmt: skip
        if self.owner_id in (None, rest.bot.id):
            data |= {"token": self.token, "url": f"https://discord.com/api/webhooks/{self.id}/{self.token}"}
        return data


def check_name(name: str, path: str) -> None:
    """Raise ApiError for a name that no webhook may have."""
    if not 1 <= utf16_length(name.strip()) <= NAME_LENGTH:
        raise invalid(path, "Must be between 1 and 80 in length.", code="BASE_TYPE_BAD_LENGTH")
    if any(word in name.lower() for word in ("clyde", "discord")):
        raise invalid(path, f'{path} cannot contain "{name}"', code="USERNAME_INVALID_CONTAINS")
    if name.strip().lower() in ("everyone", "here"):
        raise invalid(path, "This username is not allowed.", code="USERNAME_INVALID_CONTAINS")


async def list_webhooks(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """The webhooks of a channel."""
    channel = _webhook_channel(rest, given)
    found = [each for each in rest.webhooks.values() if each.channel is channel and not each.deleted]
    return json_response([each.json(rest) for each in found])


async def create_webhook(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Create one that belongs to the bot's application."""
    channel = _webhook_channel(rest, given)
    check_name(given["body"]["name"], "name")
    if len([each for each in rest.webhooks.values() if each.channel is channel and not each.deleted]) >= MOST_WEBHOOKS:
        raise ApiError(400, 30007)
    webhook = Webhook(channel, given["body"]["name"], rest.bot.id)
    rest.webhooks[webhook.id] = webhook
    return json_response(webhook.json(rest))


def _webhook_channel(rest: Rest, given: Json) -> Channel:
    channel = find_channel(rest, given["channel_id"], MANAGE)
    if channel.guild is None or channel.parent is not None:
        raise ApiError(400, 50024, violation="threads have no webhooks")
    return channel


async def get_webhook(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """One webhook: the application's own, or any with the permission."""
    webhook = _find(rest, given)
    if webhook.owner_id != rest.bot.id:
        find_channel(rest, str(webhook.channel.id), MANAGE)
    return json_response(webhook.json(rest))


async def edit_webhook(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Change name or picture."""
    webhook, body = _find(rest, given), given["body"]
    if "name" in body:
        check_name(body["name"], "name")
        webhook.name = body["name"]
    if "avatar" in body:
        webhook.avatar = None if body["avatar"] is None else picture(body["avatar"])
    return json_response(webhook.json(rest))


async def delete_webhook(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Delete one, with the permission or with its token."""
    webhook = _find(rest, given)
    if "webhook_token" not in given:
        find_channel(rest, str(webhook.channel.id), MANAGE)
    if webhook.owner_id != rest.bot.id:
        raise ApiError(403, 50013, violation="a webhook of others was deleted")
    webhook.deleted = True
    return json_response(None, 204)


def _find(rest: Rest, given: Json) -> Webhook:
    webhook = rest.webhooks.get(int(given["webhook_id"]))
    if webhook is None or webhook.deleted or webhook.channel.deleted:
        raise ApiError(404, 10015)
    if given.get("webhook_token", webhook.token) != webhook.token:
        raise ApiError(401, 50027)
    return webhook


def _target(rest: Rest, request: web.Request, webhook: Webhook) -> Channel:
    """The channel that a message belongs to: the webhook's own, or the thread of it that the query names."""
    if "thread_id" not in request.query:
        return webhook.channel
    thread = rest.channels.get(int(request.query["thread_id"]))
    if thread is None or thread.deleted or thread.parent is not webhook.channel:
        raise ApiError(404, 10003)
    return thread


async def execute(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Send a message with a webhook, or a follow-up of an interaction."""
    if _is_interaction(rest, given):
        return await interaction_routes.send_follow_up(rest, request, given)
    webhook, body = _find(rest, given), given["body"]
    channel = _target(rest, request, webhook)
    if unknown := set(body) - EXECUTE_FIELDS:
        raise invalid(min(unknown), "a webhook takes no such field")
    if (body.get("flags") or 0) & EPHEMERAL:
        raise invalid("flags", "Only responses to interactions can be ephemeral")
    if body.get("username") is not None:
        check_name(body["username"], "username")
    _check_components(webhook, body)
    author = User(body.get("username") or webhook.name, id=webhook.id, bot=True, exact=True)
    author.avatar_url, author.picture = body.get("avatar_url"), webhook.avatar
    if channel.parent:
        await wake_thread(rest, channel, rest.bot)
    message = Message(channel, author, created_at=rest.now(), webhook_id=webhook.id, application_id=webhook.owner_id)
    rest.update_message(message, body, given["files"])
    await rest.tell("MESSAGE_CREATE", message)
    return json_response(message.json()) if request.query.get("wait") in ("1", "true") else json_response(None, 204)


def _check_components(webhook: Webhook, body: Json) -> None:
    if usable_components(body.get("components") or []) and webhook.owner_id is None:
        raise invalid("components", "Only webhooks of an application may have components that can be used")


def _message(rest: Rest, request: web.Request, given: Json) -> Message:
    webhook = _find(rest, given)
    channel = _target(rest, request, webhook)
    message = rest.messages.get(int(given["message_id"]))
    if message is None or message.deleted or message.channel is not channel or message.webhook_id != webhook.id:
        raise ApiError(404, 10008)
    return message


async def get_message(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Read a message of a webhook, whatever the intents of the bot are; or a response to an interaction."""
    if _is_interaction(rest, given):
        return await interaction_routes.get_response(rest, request, given)
    return json_response(_message(rest, request, given).json())


async def edit_message(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Edit a message of a webhook, but not its name; or a response to an interaction."""
    if _is_interaction(rest, given):
        return await interaction_routes.edit_response(rest, request, given)
    message, body = _message(rest, request, given), given["body"]
    if unknown := set(body) - EDIT_FIELDS:
        raise invalid(min(unknown), "an edit takes no such field")
    if message.channel.archived:
        raise ApiError(400, 50083)
    _check_components(rest.webhooks[int(given["webhook_id"])], body)
    rest.update_message(message, body, given["files"])
    await rest.tell("MESSAGE_UPDATE", message)
    return json_response(message.json())


async def delete_message(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Delete a message of a webhook, or a response to an interaction."""
    if _is_interaction(rest, given):
        return await interaction_routes.delete_response(rest, request, given)
    message = _message(rest, request, given)
    message.deleted = True
    await rest.tell("MESSAGE_DELETE", message)
    return json_response(None, 204)


def _is_interaction(rest: Rest, given: dict[str, Any]) -> bool:
    return str(given["webhook_id"]) == str(rest.bot.id)


OF_CHANNEL, ONE, WITH_TOKEN = (
    "/channels/{channel_id}/webhooks",
    "/webhooks/{webhook_id}",
    "/webhooks/{webhook_id}/{webhook_token}",
)
MESSAGE = f"{WITH_TOKEN}/messages/{{message_id}}"
ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", OF_CHANNEL): list_webhooks,
    ("POST", OF_CHANNEL): create_webhook,
    ("GET", ONE): get_webhook,
    ("DELETE", ONE): delete_webhook,
    ("DELETE", WITH_TOKEN): delete_webhook,
    ("PATCH", WITH_TOKEN): edit_webhook,
    ("POST", WITH_TOKEN): execute,
    ("GET", MESSAGE): get_message,
    ("PATCH", MESSAGE): edit_message,
    ("DELETE", MESSAGE): delete_message,
}
