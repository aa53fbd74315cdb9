"""What the fake Discord does with messages of channels: send, edit, delete, read, react, type, open direct messages.

Enforces permissions, who may change what, replies, nonces and the states of threads.
"""

from __future__ import annotations

from aiohttp import web

from tests.fakes.discord.forms import is_emoji
from tests.fakes.discord.messages import DEFAULT, EPHEMERAL, REPLY, SLASH_RESPONSE, THREAD_CREATED, Message, emoji_json
from tests.fakes.discord.rest import Handler, Rest, json_response
from tests.fakes.discord.rules import ApiError, invalid
from tests.fakes.discord.state import Channel, Json, Permission, User

NONCE_LIFETIME, OLD_MESSAGE = 300.0, 3600.0  # seconds
MOST_REACTIONS = 20
P = Permission


def find_channel(rest: Rest, channel_id: str, needed: int = 0) -> Channel:
    """A channel that the bot can see and where it has these permissions. Raises ApiError."""
    channel = rest.channels.get(int(channel_id))
    if channel is None or channel.deleted:
        raise ApiError(404, 10003)
    if not rest.reachable(channel):
        raise ApiError(403, 50001)
    if channel.guild and (missing := needed & ~channel.guild.permissions(rest.bot, channel)):
        raise ApiError(403, 50013, missing=str(P(missing)))
    return channel


def sending_permissions(channel: Channel, body: Json, files: object) -> int:
    """The permissions that a message needs in a guild."""
    needed = P.SEND_MESSAGES if channel.parent is None else P.SEND_MESSAGES_IN_THREADS
    return needed | (P.EMBED_LINKS if body.get("embeds") else 0) | (P.ATTACH_FILES if files else 0)


async def wake_thread(rest: Rest, channel: Channel, user: User) -> None:
    """Before someone writes in a thread: open it again if it is archived, and let them join. Raises ApiError."""
    if channel.parent is None or channel.guild is None:
        return
    if channel.locked and not channel.guild.permissions(user, channel) & P.MANAGE_THREADS:
        raise ApiError(400, 50083) if channel.archived else ApiError(403, 160005)
    if channel.archived:
        channel.archived = False
        await rest.gateway.dispatch("THREAD_UPDATE", channel.json())
    await join_thread(rest, channel, user)


async def join_thread(rest: Rest, thread: Channel, user: User) -> None:
    """Make a user a member of a thread, if they are none yet."""
    if user.id in thread.members or thread.guild is None or (user.bot and user is not rest.bot):
        return
    hidden = not rest.reachable(thread)
    thread.members[user.id] = user
    if hidden and rest.reachable(thread):
        await rest.gateway.dispatch("THREAD_CREATE", {**thread.json(), "newly_created": False})
    member = {**thread.member_json(user), "member": {**thread.guild.member(user), "user": user.json()},
              "presence": None}  # fmt: skip
    change = {"id": str(thread.id), "guild_id": str(thread.guild.id), "member_count": len(thread.members)}
    await rest.gateway.dispatch("THREAD_MEMBERS_UPDATE", {**change, "added_members": [member]})


def check_not_archived(channel: Channel) -> None:
    if channel.archived:
        raise ApiError(400, 50083)


async def send_message(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Send a message to a channel."""
    body, files = given["body"], given["files"]
    channel = find_channel(rest, given["channel_id"])
    find_channel(rest, given["channel_id"], sending_permissions(channel, body, files))
    reader = channel.recipient
    if reader and (not reader.dms_open or reader.blocked_bot or not channel.bot_may_send):
        raise ApiError(403, 50007)
    if (body.get("flags") or 0) & EPHEMERAL:
        raise invalid("flags", "Only responses to interactions can be ephemeral")
    nonce, key = body.get("nonce"), (channel.id, str(body.get("nonce")))
    if nonce is not None and body.get("enforce_nonce"):
        sent_at, first = rest.nonces.get(key, (0.0, None))
        if first is not None and rest.now() - sent_at < NONCE_LIFETIME:
            return json_response(first.json())
    replied = _referenced(rest, channel, body)
    await wake_thread(rest, channel, rest.bot)
    kind = REPLY if replied else DEFAULT
    message = rest.create_message(channel, body, files, type=kind, reference=replied, nonce=nonce)
    if nonce is not None:
        rest.nonces[key] = (rest.now(), message)
    await rest.tell("MESSAGE_CREATE", message)
    return json_response(message.json())


def _referenced(rest: Rest, channel: Channel, body: Json) -> Message | None:
    """The message to reply to; None for no reply, also because it is gone and that was declared to be no error."""
    reference = body.get("message_reference")
    if not reference:
        return None
    if channel.guild and not channel.guild.permissions(rest.bot, channel) & P.READ_MESSAGE_HISTORY:
        raise ApiError(403, 160002)
    found = rest.messages.get(int(reference["message_id"]))
    if found is None or found.deleted or found.ephemeral or found.channel is not channel:
        if reference.get("fail_if_not_exists", True):
            raise invalid("message_reference", "Unknown message", code="REPLIES_UNKNOWN_MESSAGE", violation=False)
        return None
    if found.type not in (DEFAULT, REPLY, SLASH_RESPONSE, SLASH_RESPONSE + 3):
        raise invalid("message_reference", "Cannot reply to a system message",
                      code="REPLIES_CANNOT_REPLY_TO_SYSTEM_MESSAGE")  # fmt: skip
    return found


def find_message(rest: Rest, given: Json, needed: int = 0) -> Message:
    """A message that the bot can address in this channel. Ephemeral ones belong to their interaction's webhook."""
    channel = find_channel(rest, given["channel_id"], needed)
    message = rest.messages.get(int(given["message_id"]))
    if message is None or message.deleted or message.ephemeral or message.channel is not channel:
        raise ApiError(404, 10008)
    return message


async def edit_message(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Edit one of the bot's messages."""
    message = find_message(rest, given)
    if message.author is not rest.bot:
        raise ApiError(403, 50005, violation=f"message {message.id} is by {message.author.name}")
    if message.type == THREAD_CREATED:
        raise ApiError(403, 50021)
    check_not_archived(message.channel)
    if rest.now() - message.created_at > OLD_MESSAGE:
        wait = rest.bucket("old_edit", given["channel_id"]).take()
        if wait > 0:
            raise ApiError(429, 30046, retry_after=wait)
    if given["files"] and message.channel.guild:
        find_channel(rest, given["channel_id"], P.ATTACH_FILES)
    rest.update_message(message, given["body"], given["files"])
    await rest.tell("MESSAGE_UPDATE", message)
    return json_response(message.json())


async def delete_message(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Delete a message: the bot's own, or anyone's with the permission to manage messages."""
    message = find_message(rest, given)
    if message.author is not rest.bot:
        if message.channel.guild is None:
            raise ApiError(403, 50003)
        find_channel(rest, given["channel_id"], P.MANAGE_MESSAGES)
    message.deleted = True
    await rest.tell("MESSAGE_DELETE", message)
    return json_response(None, 204)


async def get_message(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Read one message."""
    return json_response(rest.as_read(find_message(rest, given, P.READ_MESSAGE_HISTORY)))


async def list_messages(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Read the last messages, newest first; none without the permission to read the history."""
    channel = find_channel(rest, given["channel_id"])
    if channel.guild and not channel.guild.permissions(rest.bot, channel) & P.READ_MESSAGE_HISTORY:
        return json_response([])
    query = request.query
    limit = int(query.get("limit", 50))
    if not 1 <= limit <= 100:
        raise invalid("limit", "int value should be between 1 and 100.")
    shown = [each for each in rest.messages.values()
             if each.channel is channel and not each.deleted and not each.ephemeral]  # fmt: skip
    shown.sort(key=lambda message: message.id, reverse=True)
    if "before" in query:
        shown = [message for message in shown if message.id < int(query["before"])]
    if "after" in query:
        shown = [message for message in shown if message.id > int(query["after"])][-limit:]
    if "around" in query:
        shown = sorted(shown, key=lambda message: abs(message.id - int(query["around"])))[:limit]
        shown.sort(key=lambda message: message.id, reverse=True)
    return json_response([rest.as_read(message) for message in shown[:limit]])


async def add_reaction(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """React to a message as the bot."""
    message, emoji = find_message(rest, given, P.READ_MESSAGE_HISTORY), given["emoji_name"]
    check_not_archived(message.channel)
    if not is_emoji(emoji) and ":" not in emoji:
        raise ApiError(400, 10014, violation=f"{emoji} is no emoji")
    if message.author.blocked_bot or (message.channel.recipient and message.channel.recipient.blocked_bot):
        raise ApiError(403, 90001)
    if emoji not in message.reactions:
        find_channel(rest, given["channel_id"], P.ADD_REACTIONS)
        if len(message.reactions) >= MOST_REACTIONS:
            raise ApiError(400, 30010)
    await change_reaction(rest, message, rest.bot, emoji, add=True)
    return json_response(None, 204)


async def remove_reaction(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Take the bot's reaction back."""
    message = find_message(rest, given, P.READ_MESSAGE_HISTORY)
    await change_reaction(rest, message, rest.bot, given["emoji_name"], add=False)
    return json_response(None, 204)


async def change_reaction(rest: Rest, message: Message, user: User, emoji: str, *, add: bool) -> None:
    """Add or remove a reaction, and tell the gateway if that changed anything."""
    users = message.reactions.setdefault(emoji, [])
    changed = add != (user in users)
    if changed and add:
        users.append(user)
    elif changed:
        users.remove(user)
    if not users:
        del message.reactions[emoji]
    if not changed or message.ephemeral or not rest.reachable(message.channel):
        return
    data: Json = {"user_id": str(user.id), "channel_id": str(message.channel.id), "message_id": str(message.id),
                  "emoji": emoji_json(emoji), "burst": False, "type": 0}  # fmt: skip
    if guild := message.channel.guild:
        data["guild_id"] = str(guild.id)
        if add:
            data |= {"member": {**guild.member(user), "user": user.json()}}
    if add:
        data["message_author_id"] = str(message.author.id)
    await rest.gateway.dispatch(f"MESSAGE_REACTION_{'ADD' if add else 'REMOVE'}", data)
    rest.notify()


async def type_in(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Show that the bot is typing."""
    channel = find_channel(rest, given["channel_id"])
    find_channel(rest, given["channel_id"], sending_permissions(channel, {}, ()))
    rest.num_typing[channel.id] = rest.num_typing.get(channel.id, 0) + 1
    return json_response(None, 204)


async def open_dm(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Open direct messages with a user. Whether they take messages shows only when one is sent."""
    user = rest.users.get(int(given["body"].get("recipient_id") or 0))
    if user is None or user.bot:
        raise ApiError(400, 50033)
    return json_response(dm_channel(rest, user).json())


def dm_channel(rest: Rest, user: User) -> Channel:
    """The channel of direct messages between the bot and a user."""
    found = next((each for each in rest.channels.values() if each.recipient is user), None)
    if found is None:
        found = rest.directory.add(Channel(user.name, None, user))
    return found


MESSAGES, MESSAGE = "/channels/{channel_id}/messages", "/channels/{channel_id}/messages/{message_id}"
OWN_REACTION = f"{MESSAGE}/reactions/{{emoji_name}}/@me"
ROUTES: dict[tuple[str, str], Handler] = {
    ("POST", MESSAGES): send_message,
    ("GET", MESSAGES): list_messages,
    ("GET", MESSAGE): get_message,
    ("PATCH", MESSAGE): edit_message,
    ("DELETE", MESSAGE): delete_message,
    ("PUT", OWN_REACTION): add_reaction,
    ("DELETE", OWN_REACTION): remove_reaction,
    ("POST", "/channels/{channel_id}/typing"): type_in,
    ("POST", "/users/@me/channels"): open_dm,
}
