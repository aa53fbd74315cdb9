"""What the fake Discord does with channels and threads: open, rename, archive, lock, join, leave, delete."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from tests.fakes.discord.message_routes import find_channel, find_message, join_thread
from tests.fakes.discord.messages import HAS_THREAD, THREAD_CREATED, THREAD_STARTER, Message
from tests.fakes.discord.rest import Handler, Rest, json_response
from tests.fakes.discord.rules import ApiError, invalid
from tests.fakes.discord.state import PRIVATE_THREAD, PUBLIC_THREAD, Channel, Json, Permission, User

P = Permission


async def open_thread(
    rest: Rest, parent: Channel, name: str, owner: User, *, message: Message | None = None, private: bool = False,
    **options: Any,
) -> Channel:  # fmt: skip
    """A new thread, at a message or for itself, with the system messages and events that go with it."""
    assert parent.guild
    thread = Channel(name, parent.guild, parent=parent, private=private, owner=owner, created_at=rest.now(), **options)
    if message:
        thread.id = message.id
        message.thread, message.flags = thread, message.flags | HAS_THREAD
    thread.members[owner.id] = owner
    parent.guild.threads.append(thread)
    rest.directory.add(thread)
    if rest.reachable(thread):
        thread.announced = True
        await rest.gateway.dispatch("THREAD_CREATE", {**thread.json(), "newly_created": True})
    if message:
        starter = Message(thread, message.author, type=THREAD_STARTER, reference=message, created_at=rest.now())
        await _post(rest, starter)
        await rest.tell("MESSAGE_UPDATE", message)
    elif not private:
        await _post(rest, Message(parent, owner, name, type=THREAD_CREATED, thread=thread, created_at=rest.now()))
    return thread


async def _post(rest: Rest, message: Message) -> None:
    message.edits.append((rest.now(), message.content))
    rest.keep(message)
    await rest.tell("MESSAGE_CREATE", message)


async def change_thread(rest: Rest, thread: Channel, change: Json) -> None:
    """Apply a change of name, `archived` or `locked`, and tell the gateway."""
    names = {"name": "name", "archived": "archived", "locked": "locked", "auto_archive_duration": "auto_archive",
             "rate_limit_per_user": "slowmode"}  # fmt: skip
    for key, attribute in names.items():
        if change.get(key) is not None:
            setattr(thread, attribute, change[key])
    if rest.reachable(thread):
        await rest.gateway.dispatch("THREAD_UPDATE", thread.json())


async def remove_channel(rest: Rest, channel: Channel) -> None:
    """Delete a channel or thread, with the threads in it."""
    assert channel.guild
    seen = rest.reachable(channel)
    channel.deleted = True
    for thread in channel.guild.threads:
        thread.deleted = thread.deleted or thread.parent is channel
    if channel.parent is None:
        channel.guild.channels.remove(channel)
    if not seen:
        return
    if channel.parent is None:
        await rest.gateway.dispatch("CHANNEL_DELETE", channel.json())
    else:
        about = {"id": str(channel.id), "guild_id": str(channel.guild.id), "parent_id": str(channel.parent.id)}
        await rest.gateway.dispatch("THREAD_DELETE", {**about, "type": channel.kind})


async def start_thread(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Open a thread without a message."""
    body = given["body"]
    kind = body.get("type") or PRIVATE_THREAD
    if kind not in (PUBLIC_THREAD, PRIVATE_THREAD):
        raise invalid("type", "Value must be one of {11, 12}.")
    needed = P.CREATE_PRIVATE_THREADS if kind == PRIVATE_THREAD else P.CREATE_PUBLIC_THREADS
    parent = find_channel(rest, given["channel_id"], needed)
    if parent.guild is None or parent.parent is not None:
        raise ApiError(400, 50024)
    options = _options(body)
    thread = await open_thread(rest, parent, body["name"], rest.bot, private=kind == PRIVATE_THREAD, **options)
    return json_response(thread.json(), 201)


async def start_thread_at_message(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Open the one thread that a message may have."""
    message = find_message(rest, given, P.CREATE_PUBLIC_THREADS | P.READ_MESSAGE_HISTORY)
    if message.channel.guild is None or message.channel.parent is not None:
        raise ApiError(400, 50024)
    if message.thread:
        raise ApiError(400, 160004)
    if message.type == THREAD_CREATED:
        raise ApiError(400, 50068)
    thread = await open_thread(
        rest, message.channel, given["body"]["name"], rest.bot, message=message, **_options(given["body"])
    )
    return json_response(thread.json(), 201)


def _options(body: Json) -> Json:
    return {"auto_archive": body.get("auto_archive_duration") or 1440, "slowmode": body.get("rate_limit_per_user") or 0}


async def get_channel(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Read a channel."""
    return json_response(find_channel(rest, given["channel_id"]).json())


async def edit_channel(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Change a thread; channels that are no threads are none of the bot's business."""
    thread = find_channel(rest, given["channel_id"])
    body: Json = given["body"]
    if thread.guild is None or thread.parent is None:
        find_channel(rest, given["channel_id"], P.MANAGE_CHANNELS)
        raise ApiError(403, 50024, violation="a channel was edited")
    if body.get("name") == "":
        raise invalid("name", "Must be between 1 and 100 in length.")
    manages = bool(thread.guild.permissions(rest.bot, thread) & P.MANAGE_THREADS)
    opens = body.get("archived") is False
    if thread.archived and not opens:
        raise ApiError(400, 50083)
    allowed = thread.guild.permissions(rest.bot, thread)
    if not manages:
        # Anyone who may write may open a thread that is not locked; its owner may also rename and archive it.
        by_writing = set(body) <= {"archived"} and opens and allowed & P.SEND_MESSAGES_IN_THREADS
        if thread.locked or "locked" in body or not (by_writing or thread.owner is rest.bot):
            raise ApiError(403, 50013)
    await change_thread(rest, thread, body)
    return json_response(thread.json())


async def delete_channel(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Delete a thread, or a channel."""
    channel = find_channel(rest, given["channel_id"])
    if channel.guild is not None:
        find_channel(rest, given["channel_id"], P.MANAGE_THREADS if channel.parent else P.MANAGE_CHANNELS)
        await remove_channel(rest, channel)
    return json_response(channel.json())


async def join(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Join a thread."""
    thread = _active_thread(rest, given)
    await join_thread(rest, thread, rest.bot)
    return json_response(None, 204)


async def leave(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Leave a thread."""
    thread = _active_thread(rest, given)
    await leave_thread(rest, thread, rest.bot)
    return json_response(None, 204)


async def leave_thread(rest: Rest, thread: Channel, user: User) -> None:
    """Take a user out of a thread."""
    assert thread.guild
    if thread.members.pop(user.id, None):
        change = {"id": str(thread.id), "guild_id": str(thread.guild.id), "member_count": len(thread.members)}
        await rest.gateway.dispatch("THREAD_MEMBERS_UPDATE", {**change, "removed_member_ids": [str(user.id)]})


def _active_thread(rest: Rest, given: Json) -> Channel:
    thread = find_channel(rest, given["channel_id"])
    if thread.parent is None:
        raise ApiError(400, 50024)
    if thread.archived:
        raise ApiError(400, 50083)
    return thread


CHANNEL = "/channels/{channel_id}"
OWN_MEMBERSHIP = f"{CHANNEL}/thread-members/@me"
ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", CHANNEL): get_channel,
    ("PATCH", CHANNEL): edit_channel,
    ("DELETE", CHANNEL): delete_channel,
    ("POST", f"{CHANNEL}/threads"): start_thread,
    ("POST", f"{CHANNEL}/messages/{{message_id}}/threads"): start_thread_at_message,
    ("PUT", OWN_MEMBERSHIP): join,
    ("DELETE", OWN_MEMBERSHIP): leave,
}
