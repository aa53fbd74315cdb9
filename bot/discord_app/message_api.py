"""Discord's endpoints for messages, by ids: send, edit and delete in a channel, or through an interaction's token.

discord.py's objects know the interaction that they came from and are gone after a restart; ids are in the database.
Nothing sent here can mention anyone. Knows Discord's REST API through discord.py's HTTP client, which waits for rate
limits and retries; knows nothing of what a message says.
"""

from __future__ import annotations

import io
import time
from collections import OrderedDict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import aiohttp
import discord
from discord.http import HTTPClient, Route

from bot.discord_app.request_pace import RequestPace, Turn, Urgency

NO_MENTIONS = discord.AllowedMentions.none()
FILE_NAME = "answer.md"
ORIGINAL = "@original"
_SUPPRESS_EMBEDS = discord.MessageFlags(suppress_embeds=True).value
_EPHEMERAL = discord.MessageFlags(ephemeral=True).value
THREAD_ARCHIVED, THREAD_LOCKED = 50083, 160005
"""Discord's codes. A message opens an archived thread by itself, so one that is refused as archived is locked, too."""
_FORBIDDEN_FOR = 3600.0
"""Seconds for which a channel that refused a message is left alone."""
_MAX_FORBIDDEN = 10_000

Components = Sequence[dict[str, Any]]


class ChannelForbidden(Exception):
    """The bot was refused in this channel within the last hour: nothing was sent."""


class MessageApi:
    """Messages of one bot."""

    def __init__(self, http: HTTPClient, pace: RequestPace | None = None) -> None:
        """`pace`: of all requests with the bot's token."""
        self.pace = pace or RequestPace()
        self._http = http
        self._forbidden: OrderedDict[int, float] = OrderedDict()

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
        body = _body(text, components, file)
        body |= {"nonce": nonce, "enforce_nonce": True, "flags": _SUPPRESS_EMBEDS}
        if reply_to is not None:
            body["message_reference"] = {"message_id": str(reply_to), "fail_if_not_exists": False}
        self._check_channel(channel_id)
        route = Route("POST", "/channels/{channel_id}/messages", channel_id=channel_id)
        try:
            if turn is not None:
                return await self._request(route, body, file, turn)
            async with self.pace.turn("create", channel_id, Urgency.FINAL) as own:
                return await self._request(route, body, file, own)
        except discord.Forbidden as error:
            if error.code != THREAD_LOCKED:  # which a moderator may undo at any time
                self._remember_forbidden(channel_id)
            raise

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
        body = _body(text, components, file, edit=True)
        if turn is not None:
            await self._request(route, body, file, turn)
            return
        async with self.pace.turn("edit", channel_id, Urgency.FINAL) as own:
            await self._request(route, body, file, own)

    async def delete(self, channel_id: int, message_id: int) -> None:
        """Delete a message of the bot."""
        route = Route(
            "DELETE", "/channels/{channel_id}/messages/{message_id}", channel_id=channel_id, message_id=message_id
        )
        async with self.pace.turn("delete", channel_id, Urgency.FINAL) as turn:
            await self._send_request(route, turn)

    async def reopen_thread(self, thread_id: int) -> None:
        """Open an archived thread again. Raises discord.Forbidden if it is locked."""
        await self._http.request(
            Route("PATCH", "/channels/{channel_id}", channel_id=thread_id), json={"archived": False}
        )

    async def typing(self, channel_id: int) -> None:
        """Show "is typing…" for ten seconds."""
        async with self.pace.turn("typing", channel_id, Urgency.TYPING) as turn:
            await self._send_request(Route("POST", "/channels/{channel_id}/typing", channel_id=channel_id), turn)

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
        return await self._request(route, _body(text, components, file, edit=True), file)

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
        """Send another message of the response and return its id."""
        body = _body(text, components, file)
        body |= {"nonce": nonce, "enforce_nonce": True}
        body["flags"] = _SUPPRESS_EMBEDS | (_EPHEMERAL if ephemeral else 0)
        route = _webhook("POST", "?wait=true", application_id, token)
        return await self._request(route, body, file)

    async def delete_response(self, application_id: int, token: str, message: int | str = ORIGINAL) -> None:
        """Delete the response to an interaction, or one of its follow-ups."""
        await self._http.request(_webhook("DELETE", "/messages/{message}", application_id, token, message=message))

    async def _send_request(self, route: Route, turn: Turn | None, **arguments: Any) -> Any:
        if turn is not None:
            turn.is_sent = True
            arguments["trace_request_ctx"] = turn  # see `request_trace`
        return await self._http.request(route, **arguments)

    async def _request(self, route: Route, body: dict[str, Any], file: str | None, turn: Turn | None = None) -> int:
        if file is None:
            data: Any = await self._send_request(route, turn, json=body)
        else:
            content = discord.File(io.BytesIO(file.encode()), FILE_NAME)
            form: list[dict[str, Any]] = [
                {"name": "payload_json", "value": discord.utils._to_json(body)},
                {"name": "files[0]", "value": content.fp, "filename": FILE_NAME, "content_type": "text/markdown"},
            ]
            data = await self._send_request(route, turn, form=form, files=[content])
        return int(data["id"]) if isinstance(data, dict) else 0

    def _check_channel(self, channel_id: int) -> None:
        since = self._forbidden.get(channel_id)
        if since is not None and time.monotonic() - since < _FORBIDDEN_FOR:
            raise ChannelForbidden(str(channel_id))

    def _remember_forbidden(self, channel_id: int) -> None:
        self._forbidden[channel_id] = time.monotonic()
        self._forbidden.move_to_end(channel_id)
        if len(self._forbidden) > _MAX_FORBIDDEN:
            self._forbidden.popitem(last=False)


def request_trace() -> aiohttp.TraceConfig:
    """Tells each turn when its response has come, for the session of discord.py.

    discord.py itself returns later: after the last request of a bucket it sleeps until the bucket is full again.
    """

    async def responded(session: object, context: SimpleNamespace, params: aiohttp.TraceRequestEndParams) -> None:
        turn = getattr(context, "trace_request_ctx", None)
        again = params.response.status == 429 or params.response.status >= 500  # discord.py may send it again
        if isinstance(turn, Turn) and not again:
            turn.responded(params.response.headers)

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(responded)
    return trace


def _webhook(method: str, path: str, application_id: int, token: str, **parameters: Any) -> Route:
    return Route(
        method,
        "/webhooks/{webhook_id}/{webhook_token}" + path,
        webhook_id=application_id,
        webhook_token=token,
        **parameters,
    )


def _body(text: str, components: Components, file: str | None, *, edit: bool = False) -> dict[str, Any]:
    body: dict[str, Any] = {
        "content": text,
        "components": list(components),
        "allowed_mentions": NO_MENTIONS.to_dict(),
    }
    if file is not None:
        body["attachments"] = [{"id": 0, "filename": FILE_NAME}]
    elif edit:
        body["attachments"] = []  # one that an earlier text had
    return body
