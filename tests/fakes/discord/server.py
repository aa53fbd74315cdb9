"""A fake Discord for tests: gateway, REST API and CDN on loopback, as strict as the real one where a bot depends on it.

    async with FakeDiscord() as discord:
        guild, ann = discord.guild("Alpha"), discord.user("ann")
        …start the bot with discord.environment()…
        await discord.until_ready()
        asked = await discord.chat(guild, ann, "Hello")
        await discord.done(asked)
        assert asked.reply() == "…"
        question = await discord.say(guild, ann, f"<@{discord.bot.id}> Hello")
        await discord.until(lambda: discord.answers(question))

Time is real, plus `advance()`. `sent()` finds the requests of the bot; `violations` lists what a well-behaved bot never
sends, such as a body that Discord's OpenAPI file does not allow. What users do is in `tests.fakes.discord.people`
(messages, threads) and `tests.fakes.discord.using` (commands, buttons, modals).
"""

from __future__ import annotations

import re
from typing import Any, Self

from aiohttp import web

from tests.fakes.discord.messages import Attachment, Interaction, Message
from tests.fakes.discord.people import Place
from tests.fakes.discord.rules import Fault, Request
from tests.fakes.discord.state import MANAGE_GUILD, Channel, Guild, Permission, Role, User
from tests.fakes.discord.using import Using

__all__ = ["MANAGE_GUILD", "Attachment", "Channel", "FakeDiscord", "Guild", "Interaction", "Message", "Permission",
           "Place", "Role", "User"]  # fmt: skip


class FakeDiscord(Using):
    """Discord as one bot sees it: start it with `async with`."""

    def __init__(self) -> None:
        super().__init__()
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=30 * 2**20)
        app.router.add_get("/gateway", self.gateway.handle)
        app.router.add_get("/gateway/", self.gateway.handle)
        app.router.add_route("*", "/api/v10/{rest:.*}", self.rest.handle)
        for folder in ("attachments", "ephemeral-attachments"):
            app.router.add_get(f"/{folder}/{{channel_id}}/{{attachment_id:\\d+}}/{{name}}", self.cdn.handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/api/v10"
        self.gateway.url = f"ws://127.0.0.1:{port}/gateway"
        self.cdn.base = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.gateway.close(1001)
        assert self._runner
        await self._runner.cleanup()

    def environment(self) -> dict[str, str]:
        """The settings with which a bot connects to this Discord."""
        return {
            "GUILDLLAMA_DISCORD_TOKEN": self.token,
            "GUILDLLAMA_DISCORD_API_BASE": self.url,
            "GUILDLLAMA_DISCORD_GATEWAY_URL": self.gateway.url,
            "GUILDLLAMA_DISCORD_CDN_URL": self.cdn.base,
        }

    # ── guilds, users, channels ──────────────────────────────────────────────────────────────────────────────────────

    def user(self, name: str, *, bot: bool = False) -> User:
        """A new user, or another bot. Users are members of every guild."""
        user = User(name, bot=bot)
        self.rest.users[user.id] = user
        return user

    def guild(
        self, name: str, *, managers: tuple[User, ...] = (), owner: User | None = None, joined: bool = True
    ) -> Guild:
        """A guild that the bot is in from the next IDENTIFY on; see `join` for one that invites it later.

        `joined=False`: one that the bot is not in, for users who installed it for themselves.
        """
        guild = Guild(name, self.bot, managers={user.id for user in managers}, owner=owner, joined=joined)
        guild.channels.append(Channel("general", guild))
        self.rest.guilds[guild.id] = guild
        self.rest.directory.add(guild.channel)
        return guild

    def category(self, guild: Guild, name: str) -> Channel:
        """A category, to be announced before the channels in it."""
        category = self.rest.directory.add(Channel(name, guild, is_category=True))
        guild.channels.append(category)
        return category

    def channel(
        self,
        guild: Guild,
        name: str,
        *,
        parent: Channel | None = None,
        category: Channel | None = None,
        age_restricted: bool = False,
    ) -> Channel:
        """Another channel, or a thread if it has a parent.

        The bot learns of it with the next GUILD_CREATE, with `announce`, or when someone writes in it.
        """
        channel = self.rest.directory.add(
            Channel(name, guild, parent=parent, category=category, age_restricted=age_restricted)
        )
        (guild.channels if parent is None else guild.threads).append(channel)
        return channel

    def role(self, guild: Guild, name: str, *members: User, permissions: int = 0) -> Role:
        """A new role, in the next GUILD_CREATE or with `announce`. Interactions list the roles of their member."""
        guild.roles.append(Role(name, {member.id for member in members}, permissions=permissions))
        return guild.roles[-1]

    def private(self, *users: User) -> Channel:
        """A private channel of users without the bot: direct messages of two, or a group."""
        return self.rest.directory.add(Channel(", ".join(user.name for user in users), None, others=users))

    def install(self, user: User) -> None:
        """The user adds the application to their account."""
        user.installed = True

    async def join(self, guild: Guild) -> None:
        """The guild adds the bot, or comes back from an outage."""
        added = not guild.unavailable
        guild.joined, guild.unavailable = True, False
        data = guild.json()
        if added:
            del data["unavailable"]  # sent only after an outage and after READY
        await self.gateway.dispatch("GUILD_CREATE", data)

    async def remove(self, guild: Guild) -> None:
        """The guild removes the bot."""
        guild.joined = False
        await self.gateway.dispatch("GUILD_DELETE", {"id": str(guild.id)})

    async def outage(self, guild: Guild) -> None:
        """The guild becomes unavailable for a while, which is not a removal."""
        guild.unavailable = True
        await self.gateway.dispatch("GUILD_DELETE", {"id": str(guild.id), "unavailable": True})

    def advance(self, seconds: float) -> None:
        """Move the clock of interactions, messages and links forward. Rate limits keep to the real one."""
        self.rest.clock_offset += seconds

    def fail(self, method: str, path: str, *, times: int = 1, **effect: Any) -> Fault:
        """Make the next `times` requests whose path matches fail; the fields of `Fault` say how."""
        fault = Fault(method, re.compile(path), times, **effect)
        self.rest.faults.append(fault)
        return fault

    # ── waiting and inspecting ───────────────────────────────────────────────────────────────────────────────────────

    async def until_ready(self, bots: int = 1, timeout: float = 30.0) -> None:
        """Wait until `bots` bot processes are on the gateway and commands are registered."""
        await self.until(lambda: len(self.gateway.connected) >= bots and self.rest.commands, timeout)

    async def done(self, *interactions: Interaction, timeout: float = 20.0) -> None:
        """Wait until these interactions have their complete response."""
        await self.until(lambda: all(each.done() for each in interactions), timeout)

    async def answered(self, message: Message, timeout: float = 20.0) -> list[Message]:
        """Wait until the bot has replied to a message in full; its replies."""
        await self.until(
            lambda: self.answers(message) and not any(each.runs() for each in self.answers(message)), timeout
        )
        return self.answers(message)

    def sent(self, method: str, path: str = "", *, ok: bool | None = None) -> list[Request]:
        """The bot's requests with this method whose path contains `path`. `ok`: only successful or only failed ones."""
        found = [each for each in self.rest.requests if each.method == method and path in each.path]
        return [each for each in found if ok is None or (each.status < 400) is ok]

    @property
    def violations(self) -> list[str]:
        """Requests that break Discord's rules, and messages that could ping anyone but the one they reply to."""
        mentions = [
            f"{each.method} {each.template} may mention: {each.allowed_mentions()}"
            for each in self.rest.requests
            if each.shown_text() and not each.pings_nobody()
        ]
        return self.rest.violations + mentions

    def posts(self, where: Place) -> list[Message]:
        """The messages of the bot in a channel that are no response to an interaction."""
        channel = self.place(where)
        return [message for message in self.rest.messages.values() if message.channel is channel
                and message.author is self.bot and not message.interaction and not message.deleted]  # fmt: skip
