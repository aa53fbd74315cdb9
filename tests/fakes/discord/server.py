"""A fake Discord for tests: gateway and REST API on loopback, as strict as the real one in what the bot depends on.

    async with FakeDiscord() as discord:
        guild, ann = discord.guild("Alpha"), discord.user("ann")
        …start the bot with discord.environment()…
        await discord.until_ready()
        asked = await discord.chat(guild, ann, "Hello")
        await discord.done(asked)
        assert asked.reply() == "…"

Time is real, plus `advance()`. `sent()` finds the requests of the bot; `violations` lists what a well-behaved bot never
sends, such as a body that Discord's OpenAPI file does not allow.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable
from typing import Any, Self

from aiohttp import web

from tests.fakes.discord.gateway import Gateway
from tests.fakes.discord.rest import Rest
from tests.fakes.discord.routes import ROUTES
from tests.fakes.discord.rules import Fault, Request
from tests.fakes.discord.state import MANAGE_GUILD, Channel, Guild, Interaction, Json, Message, Role, User

__all__ = ["MANAGE_GUILD", "Channel", "FakeDiscord", "Guild", "Interaction", "Message", "Place", "Role", "User"]

OPTION_TYPES = {str: 3, int: 4, bool: 5, Channel: 7, Role: 8, float: 10}
Place = Guild | Channel | User
Option = str | int | bool | Channel | Role


class FakeDiscord:
    """Discord as one bot sees it: start it with `async with`."""

    def __init__(self) -> None:
        self.token = f"{secrets.token_hex(12)}.{secrets.token_hex(3)}.{secrets.token_hex(19)}"
        self.bot = User("guildllama", bot=True)
        self.rest = Rest(self.token, self.bot, ROUTES)
        self.gateway = Gateway(token=self.token, ready=self._ready, guilds=self._guilds)
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=30 * 2**20)
        app.router.add_get("/gateway", self.gateway.handle)
        app.router.add_get("/gateway/", self.gateway.handle)
        app.router.add_route("*", "/api/v10/{rest:.*}", self.rest.handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/api/v10"
        self.gateway.url = self.rest.gateway_url = f"ws://127.0.0.1:{port}/gateway"
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
        }

    # ── guilds, users, channels ──────────────────────────────────────────────────────────────────────────────────────

    def user(self, name: str) -> User:
        """A new user. Users are members of every guild."""
        return User(name)

    def guild(self, name: str, *, managers: tuple[User, ...] = ()) -> Guild:
        """A guild that the bot is in from the next IDENTIFY on; see `join` for one that invites it later."""
        guild = Guild(name, managers={user.id for user in managers})
        guild.channels.append(Channel("general", guild))
        self.rest.guilds[guild.id] = guild
        self.rest.channels[guild.channel.id] = guild.channel
        return guild

    def channel(self, guild: Guild, name: str, *, parent: Channel | None = None) -> Channel:
        """Another channel, or a thread if it has a parent. The bot learns of a channel with the next GUILD_CREATE."""
        channel = Channel(name, guild, parent=parent)
        if parent is None:
            guild.channels.append(channel)
        self.rest.channels[channel.id] = channel
        return channel

    def role(self, guild: Guild, name: str, *members: User) -> Role:
        """A new role. The gateway does not report it: interactions list the roles of their member."""
        guild.roles.append(Role(name, {member.id for member in members}))
        return guild.roles[-1]

    def dm(self, user: User) -> Channel:
        """The channel of direct messages between the bot and this user."""
        for channel in self.rest.channels.values():
            if channel.recipient is user:
                return channel
        channel = Channel(user.name, None, user)
        self.rest.channels[channel.id] = channel
        return channel

    async def join(self, guild: Guild) -> None:
        """The guild adds the bot, or comes back from an outage."""
        added = not guild.unavailable
        guild.joined, guild.unavailable = True, False
        data = guild.json(self.bot)
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
        """Move the clock of interactions forward."""
        self.rest.clock_offset += seconds

    def fail(self, method: str, path: str, *, times: int = 1, **effect: Any) -> Fault:
        """Make the next `times` requests whose path matches fail; the fields of `Fault` say how."""
        fault = Fault(method, re.compile(path), times, **effect)
        self.rest.faults.append(fault)
        return fault

    # ── what users do ────────────────────────────────────────────────────────────────────────────────────────────────

    async def command(self, where: Place, user: User, name: str, /, **options: Option) -> Interaction:
        """Use a slash command, such as "persona set", in a channel, a guild's first channel or direct messages."""
        channel = self.dm(where) if isinstance(where, User) else where.channel if isinstance(where, Guild) else where
        guild = channel.guild
        first = name.split()[0]
        registered = next((command for command in self.rest.commands if command["name"] == first), None)
        assert registered, f"/{first} is not registered: {[command['name'] for command in self.rest.commands]}"
        contexts = registered.get("contexts")
        assert contexts is None or (0 if guild else 1) in contexts, f"/{first} is not offered here"
        return await self.force_command(channel, guild, user, registered["id"], name, **options)

    async def force_command(
        self, channel: Channel, guild: Guild | None, user: User, command_id: str, name: str, /, **options: Any
    ) -> Interaction:
        """Use a command without Discord's own checks, as a modified client or an overridden permission allows."""
        first, *rest = name.split()
        given: list[Json] = [
            {
                "name": key,
                "type": OPTION_TYPES[type(value)],
                "value": str(value.id) if isinstance(value, Channel | Role) else value,
            }
            for key, value in options.items()
        ]
        for position, part in enumerate(reversed(rest)):
            given = [{"name": part, "type": 1 if position == 0 else 2, "options": given}]
        data: Json = {"id": command_id, "name": first, "type": 1, "options": given}
        for kind, key in ((Channel, "channels"), (Role, "roles")):
            if resolved := {str(value.id): value.json() for value in options.values() if isinstance(value, kind)}:
                data.setdefault("resolved", {})[key] = resolved
        return await self._create_interaction(2, user, guild, channel, data)

    async def chat(self, where: Place, user: User, message: str, **options: str | bool) -> Interaction:
        """Use /chat."""
        return await self.command(where, user, "chat", message=message, **options)

    async def click(self, message: Message, user: User, *, label: str = "") -> Interaction:
        """Click a button of a message: the first one whose label contains `label`."""
        button = next(button for button in message.buttons() if label in (button.get("label") or ""))
        data = {"custom_id": button["custom_id"], "component_type": 2, "id": 2}
        return await self._create_interaction(3, user, message.channel.guild, message.channel, data, message=message)

    async def submit(self, interaction: Interaction, **values: str) -> Interaction:
        """Fill in the modal that an interaction opened, by the custom ids of its fields, and submit it."""
        assert interaction.modal, "no modal is open"
        rows = interaction.modal["components"]
        sent = []
        for row in rows:
            fields = row.get("components") or [row["component"]]
            inner = [{"type": 4, "id": 1, "custom_id": field["custom_id"],
                      "value": values.get(field["custom_id"], field.get("value", ""))} for field in fields]  # fmt: skip
            sent.append(
                {"type": 1, "id": 2, "components": inner}
                if row["type"] == 1
                else {"type": 18, "id": 2, "component": inner[0]}
            )
        data = {"custom_id": interaction.modal["custom_id"], "components": sent}
        return await self._create_interaction(5, interaction.user, interaction.guild, interaction.channel, data)

    async def _create_interaction(
        self,
        kind: int,
        user: User,
        guild: Guild | None,
        channel: Channel,
        data: Json,
        *,
        message: Message | None = None,
    ) -> Interaction:
        token = f"aW50ZXJhY3Rpb246{secrets.token_urlsafe(90)}"
        interaction = Interaction(kind, user, guild, channel, data, self.rest.now(), token, message)
        self.rest.interactions[interaction.id] = interaction
        await self.gateway.dispatch("INTERACTION_CREATE", interaction.json(self.bot.id))
        return interaction

    async def repeat(self, interaction: Interaction) -> None:
        """Send the same INTERACTION_CREATE once more, with a new sequence number."""
        await self.gateway.dispatch("INTERACTION_CREATE", interaction.json(self.bot.id))

    # ── waiting and inspecting ───────────────────────────────────────────────────────────────────────────────────────

    async def until(self, condition: Callable[[], object], timeout: float = 20.0) -> None:
        """Wait until a condition holds. It is checked after each request and gateway event, and every 50 ms."""
        async with asyncio.timeout(timeout):
            while not condition():
                waits = [asyncio.ensure_future(each.changed.wait()) for each in (self.rest, self.gateway)]
                await asyncio.wait(waits, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()

    async def until_ready(self, bots: int = 1, timeout: float = 30.0) -> None:
        """Wait until `bots` bot processes are on the gateway and commands are registered."""
        await self.until(lambda: len(self.gateway.connected) >= bots and self.rest.commands, timeout)

    async def done(self, *interactions: Interaction, timeout: float = 20.0) -> None:
        """Wait until these interactions have their complete response."""
        await self.until(lambda: all(each.done() for each in interactions), timeout)

    def sent(self, method: str, path: str = "", *, ok: bool | None = None) -> list[Request]:
        """The bot's requests with this method whose path contains `path`. `ok`: only successful or only failed ones."""
        found = [each for each in self.rest.requests if each.method == method and path in each.path]
        return [each for each in found if ok is None or (each.status < 400) is ok]

    @property
    def violations(self) -> list[str]:
        """Requests that break Discord's API description, and messages that could ping a member."""
        mentions = [
            f"{each.method} {each.template} may mention: {each.allowed_mentions()}"
            for each in self.rest.requests
            if each.shown_text() and (each.allowed_mentions() is None or each.allowed_mentions() != {"parse": []})
        ]
        return self.rest.violations + mentions

    def posts(self, guild_or_user: Guild | User) -> list[Message]:
        """The messages of the bot in a channel that are no response to an interaction."""
        channel = guild_or_user.channel if isinstance(guild_or_user, Guild) else self.dm(guild_or_user)
        responses = {message.id for each in self.rest.interactions.values() for message in each.messages()}
        return [message for message in self.rest.messages.values() if message.channel is channel
                and message.id not in responses and not message.deleted]  # fmt: skip

    def _ready(self) -> Json:
        joined = [guild for guild in self.rest.guilds.values() if guild.joined]
        return {
            "user": {**self.bot.json(), "verified": True, "mfa_enabled": True},
            "guilds": [{"id": str(guild.id), "unavailable": True} for guild in joined],
            "application": {"id": str(self.bot.id), "flags": 0},
        }  # fmt: skip

    def _guilds(self) -> list[Json]:
        joined = [guild for guild in self.rest.guilds.values() if guild.joined and not guild.unavailable]
        return [guild.json(self.bot) for guild in joined]
