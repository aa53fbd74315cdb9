"""Discord's endpoints for messages, by ids: send, edit and delete in a channel, or through an interaction's token.

discord.py's objects know the interaction that they came from and are gone after a restart; ids are in the database.
Nothing sent here can mention anyone. Knows Discord's REST API through discord.py's HTTP client, which waits for rate
limits and retries; knows nothing of what a message says.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import discord
from discord.http import HTTPClient, Route

from bot.discord_app.rest.channel_webhooks import ChannelWebhooks
from bot.discord_app.rest.forbidden_channels import ForbiddenChannels
from bot.discord_app.rest.message_data import (
    EPHEMERAL,
    SUPPRESS_EMBEDS,
    Components,
    MessagePage,
    body_of,
    id_of,
    seen,
    was_sent_before,
)
from bot.discord_app.rest.request_pace import Kind, RequestPace, Turn, Urgency
from bot.discord_app.rest.requests import send_message, send_once, send_request
from bot.discord_app.rest.webhook_api import WebhookApi

ORIGINAL = "@original"
_NO_HISTORY = 160002  # a reply needs the permission to read the message history


class MessageApi:
    """Messages of one bot. `own_id` returns the id of its user, which is known after the login."""

    def __init__(
        self,
        http: HTTPClient,
        own_id: Callable[[], int],
        pace: RequestPace | None = None,
        webhooks: ChannelWebhooks | None = None,
    ) -> None:
        """`pace`: of all requests with the bot's token. `webhooks`: of the same pace."""
        self.pace = pace or RequestPace()
        self.webhooks = webhooks or ChannelWebhooks(WebhookApi(http, self.pace), own_id)
        self._http = http
        self._own_id = own_id
        self._forbidden = ForbiddenChannels()

    # ── in a channel, as the bot ─────────────────────────────────────────────────────────────────────────────────────

    async def send(
        self,
        channel_id: int,
        text: str,
        *,
        nonce: str,
        reply_to: int | None = None,
        components: Components = (),
        file: str | None = None,
        turn: Turn | None = None,
    ) -> int:
        """Send a message and return its id. Sent twice with one `nonce` within minutes, it appears once.

        `reply_to`: the message that it answers, if that still exists. `turn`: the caller's turn, of kind "create";
        None to wait for one. Raises ChannelForbidden, or what discord.py does.
        """
        body = body_of(text, components, file)
        body |= {"nonce": nonce, "enforce_nonce": True, "flags": SUPPRESS_EMBEDS}
        if reply_to is not None:
            body["message_reference"] = {"message_id": str(reply_to), "fail_if_not_exists": False}
        route = Route("POST", "/channels/{channel_id}/messages", channel_id=channel_id)
        with self._forbidden.once(channel_id, remember=file is None):
            try:
                async with self._turn("create", channel_id, turn) as own:
                    data = await self._request(route, body, file, turn=own)
            except discord.Forbidden as error:
                if error.code != _NO_HISTORY or reply_to is None:
                    raise
                del body["message_reference"]  # the bot may write here, but not see what it answers
                async with self._turn("create", channel_id, None) as own:
                    data = await self._request(route, body, file, turn=own)
        message_id = int(data["id"])
        if was_sent_before(data, text, components):
            # The nonce found a message that an earlier attempt had sent, when the reply was shorter.
            await self.edit(channel_id, message_id, text, components=components, file=file)
        return message_id

    async def edit(
        self,
        channel_id: int,
        message_id: int,
        text: str,
        *,
        components: Components = (),
        file: str | None = None,
        turn: Turn | None = None,
    ) -> None:
        """Edit a message of the bot. `turn`: the caller's turn, of kind "edit"; None to wait for one."""
        route = Route(
            "PATCH", "/channels/{channel_id}/messages/{message_id}", channel_id=channel_id, message_id=message_id
        )
        with self._forbidden.once(channel_id, remember=file is None):
            async with self._turn("edit", channel_id, turn) as own:
                await self._request(route, body_of(text, components, file, edit=True), file, turn=own)

    async def delete(self, channel_id: int, message_id: int) -> None:
        """Delete a message of the bot."""
        route = Route(
            "DELETE", "/channels/{channel_id}/messages/{message_id}", channel_id=channel_id, message_id=message_id
        )
        with self._forbidden.once(channel_id):
            async with self.pace.turn("delete", channel_id, Urgency.FINAL) as turn:
                await self._send_request(route, turn)

    async def typing(self, channel_id: int) -> None:
        """Show "is typing…" for ten seconds."""
        route = Route("POST", "/channels/{channel_id}/typing", channel_id=channel_id)
        with self._forbidden.once(channel_id):
            async with self.pace.turn("typing", channel_id, Urgency.TYPING) as turn:
                await self._send_request(route, turn)

    async def reopen_thread(self, thread_id: int) -> None:
        """Open an archived thread again. Raises discord.Forbidden if it is locked."""
        route = Route("PATCH", "/channels/{channel_id}", channel_id=thread_id)
        await self._http.request(route, json={"archived": False})

    async def own_messages(self, channel_id: int, *, after: int, webhook_id: int | None = None) -> MessagePage:
        """The bot's messages among the next hundred after this id, or a webhook's. None where it may not read."""
        route = Route("GET", "/channels/{channel_id}/messages", channel_id=channel_id)
        data: Any = await self._http.request(route, params={"after": str(after), "limit": "100"})
        page = sorted(data, key=lambda message: int(message["id"]))
        author_id = self._own_id() if webhook_id is None else webhook_id
        own = tuple(seen(message) for message in page if int(message["author"]["id"]) == author_id)
        return MessagePage(own, int(page[-1]["id"]) if len(page) == 100 else None)

    async def open_dm(self, user_id: int) -> int:
        """The channel of direct messages with a user."""
        async with self.pace.turn("other", 0, Urgency.FINAL) as turn:
            route = Route("POST", "/users/@me/channels")
            data: Any = await self._send_request(route, turn, json={"recipient_id": str(user_id)})
        return int(data["id"])

    # ── through an interaction's token, for its 15 minutes ───────────────────────────────────────────────────────────

    async def edit_response(
        self,
        application_id: int,
        token: str,
        text: str,
        *,
        message: int | str = ORIGINAL,
        components: Components = (),
        file: str | None = None,
    ) -> int:
        """Edit the response to an interaction, or one of its follow-ups; return the message's id."""
        route = _webhook("PATCH", "/messages/{message}", application_id, token, message=message)
        return id_of(await self._request(route, body_of(text, components, file, edit=True), file))

    async def follow_up(
        self,
        application_id: int,
        token: str,
        text: str,
        *,
        nonce: str,
        ephemeral: bool,
        components: Components = (),
        file: str | None = None,
    ) -> int:
        """Send another message of the response and return its id.

        Discord is not known to recognise a follow-up that is sent twice by its `nonce`, as it does with messages in a
        channel. So this is not sent again after a failure that leaves open whether it was accepted, which raises
        AnswerLost.
        """
        body = body_of(text, components, file)
        body |= {"nonce": nonce, "enforce_nonce": True}
        body["flags"] = SUPPRESS_EMBEDS | (EPHEMERAL if ephemeral else 0)
        route = _webhook("POST", "?wait=true", application_id, token)
        return id_of(await send_once(self._http, route, body, file))

    async def delete_response(self, application_id: int, token: str, message: int | str = ORIGINAL) -> None:
        """Delete the response to an interaction, or one of its follow-ups."""
        await self._http.request(_webhook("DELETE", "/messages/{message}", application_id, token, message=message))

    @contextlib.asynccontextmanager
    async def _turn(self, kind: Kind, channel_id: int, given: Turn | None) -> AsyncIterator[Turn]:
        """The caller's turn, or a new one to be waited for."""
        if given is not None:
            yield given
            return
        async with self.pace.turn(kind, channel_id, Urgency.FINAL) as turn:
            yield turn

    async def _send_request(self, route: Route, turn: Turn | None, **arguments: Any) -> Any:
        return await send_request(self._http, route, turn, **arguments)

    async def _request(self, route: Route, body: dict[str, Any], file: str | None, **options: Any) -> dict[str, Any]:
        return await send_message(self._http, route, body, file, **options)


def _webhook(method: str, path: str, application_id: int, token: str, **parameters: Any) -> Route:
    return Route(
        method,
        "/webhooks/{webhook_id}/{webhook_token}" + path,
        webhook_id=application_id,
        webhook_token=token,
        **parameters,
    )
