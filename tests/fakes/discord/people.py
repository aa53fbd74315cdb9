"""What users of the fake Discord do with messages and threads: write, edit, delete, react, open and archive threads.

Each act changes the state and sends the events that Discord sends. Commands and buttons are in
`tests.fakes.discord.using`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence

from tests.fakes.discord.cdn import Cdn
from tests.fakes.discord.gateway import Gateway
from tests.fakes.discord.message_routes import change_reaction, dm_channel, join_thread, wake_thread
from tests.fakes.discord.messages import REPLY, VOICE_MESSAGE, Attachment, Message
from tests.fakes.discord.rest import Rest
from tests.fakes.discord.routes import ROUTES, application_flags
from tests.fakes.discord.state import Channel, Guild, Json, Overwrite, Permission, Role, User, snowflake
from tests.fakes.discord.thread_routes import change_thread, open_thread, remove_channel
from tests.fakes.discord.webhook_routes import Webhook

Place = Guild | Channel | User
P = Permission


class People:
    """The state of the fake Discord, and what its users do without the bot's help."""

    def __init__(self) -> None:
        self.token = f"{secrets.token_hex(12)}.{secrets.token_hex(3)}.{secrets.token_hex(19)}"
        self.bot = User("guildllama", bot=True)
        self.gateway = Gateway(token=self.token, bot_id=self.bot.id, ready=self._ready, guilds=self._guilds)
        self.cdn = Cdn(lambda: self.rest.now())
        self.rest = Rest(self.token, self.bot, ROUTES, self.gateway, self.cdn)

    def _ready(self) -> Json:
        joined = [guild for guild in self.rest.guilds.values() if guild.joined]
        return {
            "user": {**self.bot.json(), "verified": True, "mfa_enabled": True},
            "guilds": [{"id": str(guild.id), "unavailable": True} for guild in joined],
            "application": {"id": str(self.bot.id), "flags": application_flags(self.rest)},
        }

    def _guilds(self, has: Callable[[int], bool]) -> list[Json]:
        joined = [guild for guild in self.rest.guilds.values() if guild.joined and not guild.unavailable]
        return [guild.json() for guild in joined if has(guild.id)]

    def dm(self, user: User) -> Channel:
        """The channel of direct messages between the bot and this user."""
        return dm_channel(self.rest, user)

    def place(self, where: Place) -> Channel:
        """The channel that is meant: a guild's first one, or direct messages with a user."""
        return self.dm(where) if isinstance(where, User) else where.channel if isinstance(where, Guild) else where

    async def until(self, condition: Callable[[], object], timeout: float = 20.0) -> None:
        """Wait until a condition holds. It is checked after each request and gateway event, and every 50 ms."""
        async with asyncio.timeout(timeout):
            while not condition():
                waits = [asyncio.ensure_future(each.changed.wait()) for each in (self.rest, self.gateway)]
                await asyncio.wait(waits, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def say(
        self,
        where: Place,
        user: User,
        text: str,
        *,
        reply_to: Message | None = None,
        ping: bool = True,
        files: Sequence[Attachment] = (),
        webhook: bool = False,
    ) -> Message:
        """A user, or a webhook under their name, writes a message. It opens an archived thread again."""
        channel = self.place(where)
        assert text.strip() or files, "a client sends no empty message"
        assert reply_to is None or reply_to.channel is channel, "one replies in the same channel"
        if channel.guild and not webhook:
            sending = P.SEND_MESSAGES if channel.parent is None else P.SEND_MESSAGES_IN_THREADS
            assert channel.guild.permissions(user, channel) & sending, f"{user.name} may not write in {channel.name}"
            await self._announce_unknown(channel)
            await wake_thread(self.rest, channel, user)
        message = Message(
            channel, user, text.strip(), attachments=list(files), reference=reply_to, created_at=self.rest.now(),
            type=REPLY if reply_to else 0, webhook_id=snowflake() if webhook else None,
            flags=VOICE_MESSAGE if any(file.duration is not None for file in files) else 0,
            nonce=None if webhook else str(snowflake()),
        )  # fmt: skip
        message.find_mentions(self.rest.users)
        by_command = reply_to and reply_to.interaction and reply_to.author is self.bot
        if reply_to and ping and not reply_to.deleted and not by_command and not reply_to.author.exact:
            # Discord does not count a reply to the response of an interaction as one that mentions the application,
            # and a webhook is no one who could be mentioned.
            message.mentions = list(dict.fromkeys([*message.mentions, reply_to.author]))
        message.edits.append((self.rest.now(), message.content))
        if channel.parent:
            for mentioned in message.mentions:
                await join_thread(self.rest, channel, mentioned)
        self.rest.keep(message)
        await self.rest.tell("MESSAGE_CREATE", message)
        return message

    async def edit(self, message: Message, text: str) -> None:
        """The author changes the text. It mentions anew, but pings no one."""
        assert not message.deleted
        message.content = text.strip()
        ping = [user for user in message.mentions if message.reference and user is message.reference.author]
        message.find_mentions(self.rest.users)
        message.mentions = list(dict.fromkeys([*message.mentions, *ping]))
        message.edits.append((self.rest.now(), message.content))
        await self.rest.tell("MESSAGE_UPDATE", message)

    async def unfurl(self, message: Message) -> None:
        """Discord adds a preview of a link: MESSAGE_UPDATE, although no one has edited anything."""
        message.embeds = [{"type": "article", "url": "https://example.org", "title": "A page"}]
        await self.rest.tell("MESSAGE_UPDATE", message)

    async def delete(self, *messages: Message) -> None:
        """Delete a message; several of one channel at once make one MESSAGE_DELETE_BULK."""
        for message in messages:
            message.deleted = True
        if len(messages) == 1:
            await self.rest.tell("MESSAGE_DELETE", messages[0])
            return
        channel = messages[0].channel
        about: Json = {"ids": [str(message.id) for message in messages], "channel_id": str(channel.id)}
        if channel.guild:
            about["guild_id"] = str(channel.guild.id)
        if self.rest.reachable(channel):
            await self.gateway.dispatch("MESSAGE_DELETE_BULK", about)

    async def react(self, message: Message, user: User, emoji: str) -> None:
        """A user reacts to a message."""
        assert not message.deleted
        assert not message.ephemeral, "an ephemeral message takes no reactions"
        await change_reaction(self.rest, message, user, emoji, add=True)

    async def unreact(self, message: Message, user: User, emoji: str) -> None:
        """A user takes a reaction back."""
        await change_reaction(self.rest, message, user, emoji, add=False)

    def answers(self, message: Message) -> list[Message]:
        """The messages of the bot that reply to this one, in order."""
        return [each for each in self.rest.messages.values()
                if each.author is self.bot and each.reference is message and not each.deleted]  # fmt: skip

    # ── webhooks ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def webhook(self, channel: Channel, name: str, *, application_id: int | None = None) -> Webhook:
        """A webhook that a person made in a channel, or another application."""
        webhook = Webhook(channel, name, application_id)
        self.rest.webhooks[webhook.id] = webhook
        return webhook

    def own_webhooks(self, where: Place) -> list[Webhook]:
        """The webhooks of the bot in a channel."""
        channel = self.place(where)
        return [each for each in self.rest.webhooks.values()
                if each.channel is channel and each.owner_id == self.bot.id and not each.deleted]  # fmt: skip

    def spoken(self, where: Place) -> list[Message]:
        """What webhooks of the bot have said in a channel or thread, in order."""
        channel = self.place(where)
        return [each for each in self.rest.messages.values()
                if each.channel is channel and each.application_id == self.bot.id and not each.deleted]  # fmt: skip

    # ── threads and channels ─────────────────────────────────────────────────────────────────────────────────────────

    async def thread(
        self, channel: Channel, name: str, *, user: User, message: Message | None = None, private: bool = False
    ) -> Channel:
        """A user opens a thread, at a message or for itself."""
        needed = P.CREATE_PRIVATE_THREADS if private else P.CREATE_PUBLIC_THREADS
        assert channel.guild
        assert channel.guild.permissions(user, channel) & needed
        assert message is None or (message.thread is None and not private), "a message has one thread, a public one"
        await self._announce_unknown(channel)
        return await open_thread(self.rest, channel, name, user, message=message, private=private)

    async def archive(self, thread: Channel, locked: bool = False) -> None:
        """A thread is archived, by its age or by a moderator, who may also lock it."""
        await change_thread(self.rest, thread, {"archived": True, "locked": locked or thread.locked})

    async def unarchive(self, thread: Channel) -> None:
        """A moderator opens a thread again and unlocks it."""
        await change_thread(self.rest, thread, {"archived": False, "locked": False})

    async def delete_channel(self, channel: Channel) -> None:
        """A channel or thread is deleted."""
        await remove_channel(self.rest, channel)

    async def permit(self, channel: Channel, who: User | Role | None, *, allow: int = 0, deny: int = 0) -> None:
        """Set what a channel allows and denies a member, a role, or everyone (None); the gateway tells of it."""
        assert channel.guild
        key = channel.guild.id if who is None else who.id
        seen = self.rest.reachable(channel)
        channel.overwrites[key] = Overwrite(allow, deny)
        if not channel.announced:
            await self._announce_unknown(channel)
        elif self.rest.reachable(channel):
            await self.gateway.dispatch("CHANNEL_UPDATE" if seen else "CHANNEL_CREATE", channel.json())
            if not seen:
                await self._sync_threads(channel)
        elif seen:
            await self.gateway.dispatch("CHANNEL_DELETE", channel.json())

    async def _sync_threads(self, channel: Channel) -> None:
        """Tell of the threads of a channel that has become visible."""
        assert channel.guild
        threads = [each for each in channel.guild.visible_threads() if each.parent is channel]
        own = [each.member_json(self.bot) for each in threads if self.bot.id in each.members]
        data = {"guild_id": str(channel.guild.id), "channel_ids": [str(channel.id)], "members": own}
        await self.gateway.dispatch("THREAD_LIST_SYNC", {**data, "threads": [each.json() for each in threads]})

    async def announce(self, thing: Channel | Role, guild: Guild | None = None) -> None:
        """Tell the gateway of a new or changed channel or role. A role needs its guild."""
        if isinstance(thing, Channel):
            if thing.announced:
                await self.gateway.dispatch(f"{'THREAD' if thing.parent else 'CHANNEL'}_UPDATE", thing.json())
            else:
                await self._announce_unknown(thing)
            return
        assert guild
        await self.gateway.dispatch("GUILD_ROLE_UPDATE", {"guild_id": str(guild.id), "role": thing.json()})

    async def _announce_unknown(self, channel: Channel) -> None:
        """Let the gateway tell of a channel that was made after the bot had come."""
        if channel.announced or not self.rest.reachable(channel):
            return
        channel.announced = True
        if channel.parent:
            await self.gateway.dispatch("THREAD_CREATE", {**channel.json(), "newly_created": True})
        else:
            await self.gateway.dispatch("CHANNEL_CREATE", channel.json())
