"""Discord's endpoints for webhooks of channels: those of this application, and the messages that are sent with them.

A webhook's token is a secret: it is read from Discord, kept in memory, and neither stored nor logged. Nothing sent here
can mention anyone. Knows no persona, and not when to use a webhook.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from discord.http import HTTPClient, Route

from bot.discord_app.rest.message_data import (
    SUPPRESS_EMBEDS,
    Components,
    SeenMessage,
    body_of,
    id_of,
    seen,
)
from bot.discord_app.rest.request_pace import RequestPace, Turn, Urgency
from bot.discord_app.rest.requests import send_message, send_once, send_request

_INCOMING = 1  # the type of a webhook that messages can be sent with


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook of this application in a channel."""

    webhook_id: int
    channel_id: int
    token: str = field(repr=False)
    has_picture: bool = False
    """Whether it had a picture of its own when it was read."""


@dataclass(frozen=True, slots=True)
class Voice:
    """Who a webhook's message is by. `persona_id`: 0 where that is not known."""

    name: str = field(repr=False)
    persona_id: int = 0


class WebhookMoved(aiohttp.ClientError):
    """The webhook sends to another channel than the bot took it for: nothing is left of the message there."""


class WebhookApi:
    """The webhooks of one application, whose id is the one of its bot user."""

    def __init__(self, http: HTTPClient, pace: RequestPace) -> None:
        self.pace = pace
        self._http = http

    async def of_channel(self, channel_id: int, *, application_id: int) -> tuple[Webhook, ...]:
        """The webhooks of this application in a channel, the oldest first. Needs the permission Manage Webhooks."""
        data: Any = await self._http.request(Route("GET", "/channels/{channel_id}/webhooks", channel_id=channel_id))
        found = filter(None, (_own(each, application_id) for each in data))
        return tuple(sorted(found, key=lambda each: each.webhook_id))

    async def create(self, channel_id: int, name: str, *, application_id: int) -> Webhook | None:
        """Create a webhook in a channel. Needs the permission Manage Webhooks."""
        route = Route("POST", "/channels/{channel_id}/webhooks", channel_id=channel_id)
        return _own(await self._http.request(route, json={"name": name}), application_id)

    async def find(self, webhook_id: int, *, application_id: int) -> Webhook | None:
        """A webhook by its id; None if it is another's. An application needs no permission to see its own."""
        data: Any = await self._http.request(Route("GET", "/webhooks/{webhook_id}", webhook_id=webhook_id))
        return _own(data, application_id)

    async def remove(self, webhook: Webhook) -> None:
        """Delete a webhook."""
        await self._http.request(_route("DELETE", "", webhook))

    async def set_picture(self, webhook: Webhook, picture: bytes | None) -> None:
        """Give a webhook this picture, a PNG, or none."""
        avatar = None if picture is None else f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        await self._http.request(_route("PATCH", "", webhook), json={"avatar": avatar})

    async def send(
        self,
        webhook: Webhook,
        text: str,
        *,
        channel_id: int,
        name: str,
        avatar_url: str | None,
        components: Components = (),
        file: str | None = None,
        turn: Turn | None = None,
    ) -> int:
        """Send a message to the webhook's channel, or to a thread of it, and return its id.

        A webhook's messages have no nonce, so this is not sent again after a failure that leaves open whether it was
        accepted, which raises AnswerLost. WebhookMoved, if an admin has given it another channel. `avatar_url`: None
        for the webhook's own picture. `turn`: of kind "webhook".
        """
        thread_id = _thread(webhook, channel_id)
        body = body_of(text, components, file)
        body |= {"username": name, "flags": SUPPRESS_EMBEDS}
        if avatar_url is not None:
            body["avatar_url"] = avatar_url
        route = _route("POST", "?wait=true" if thread_id is None else "?wait=true&thread_id={thread_id}", webhook,
                       thread_id=thread_id)  # fmt: skip
        sent = await send_once(self._http, route, body, file, turn=turn)
        if str(sent.get("channel_id", channel_id)) != str(channel_id):
            await self._http.request(_message("DELETE", webhook, id_of(sent), None))
            raise WebhookMoved(f"webhook {webhook.webhook_id} belongs to another channel now")
        return id_of(sent)

    async def edit(
        self,
        webhook: Webhook,
        message_id: int,
        text: str,
        *,
        channel_id: int,
        components: Components = (),
        file: str | None = None,
        turn: Turn | None = None,
    ) -> None:
        """Edit one of its messages."""
        route = _message("PATCH", webhook, message_id, _thread(webhook, channel_id))
        await send_message(self._http, route, body_of(text, components, file, edit=True), file, turn=turn)

    async def delete(self, webhook: Webhook, message_id: int, *, channel_id: int) -> None:
        """Delete one of its messages."""
        route = _message("DELETE", webhook, message_id, _thread(webhook, channel_id))
        async with self.pace.turn("webhook", webhook.webhook_id, Urgency.FINAL) as turn:
            await send_request(self._http, route, turn)

    async def message(self, webhook: Webhook, message_id: int, *, channel_id: int) -> SeenMessage:
        """One of its messages, with its text, which lists of a channel may lack.

        Without a turn: it is looked for, after a crash, within the turn of what is to be shown.
        """
        data: Any = await self._http.request(_message("GET", webhook, message_id, _thread(webhook, channel_id)))
        return seen(data)


def _own(data: Any, application_id: int) -> Webhook | None:
    """A webhook as Discord lists it, if it is one of this application and messages can be sent with it."""
    if not isinstance(data, dict) or data.get("type") != _INCOMING or not data.get("token"):
        return None
    if str(data.get("application_id")) != str(application_id) or not data.get("channel_id"):
        return None
    has_picture = data.get("avatar") is not None
    return Webhook(int(data["id"]), int(data["channel_id"]), str(data["token"]), has_picture)


def _thread(webhook: Webhook, channel_id: int) -> int | None:
    """The thread of the webhook's channel that this is; None for the channel itself."""
    return None if channel_id == webhook.channel_id else channel_id


def _message(method: str, webhook: Webhook, message_id: int, thread_id: int | None) -> Route:
    query = "" if thread_id is None else "?thread_id={thread_id}"
    return _route(method, "/messages/{message_id}" + query, webhook, message_id=message_id, thread_id=thread_id)


def _route(method: str, path: str, webhook: Webhook, **parameters: Any) -> Route:
    given = {name: value for name, value in parameters.items() if value is not None}
    return Route(
        method,
        "/webhooks/{webhook_id}/{webhook_token}" + path,
        webhook_id=webhook.webhook_id,
        webhook_token=webhook.token,
        **given,
    )
