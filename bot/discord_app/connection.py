"""Logs in and stays on the gateway: retries while Discord is away, gives up when it refuses the token.

Knows discord.py's connection and Discord's close codes. Knows no event and no command.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import discord
import structlog
import yarl
from discord.gateway import DiscordWebSocket
from discord.http import Route

from bot.discord_app.delivery import DISCORD_ERRORS, describe_error
from bot.discord_app.rest.request_guard import RequestGuard
from bot.errors import ConfigError
from bot.settings import Settings
from bot.telemetry.tracing import event_arrived

log = structlog.get_logger(__name__)

_LOGIN_DELAYS = (1, 2, 5, 10, 30)  # seconds before each retry of the login; 60 from then on
_GATEWAY_DELAY = 5  # seconds before the gateway connection is tried again
_TOKEN = "GUILDLLAMA_DISCORD_TOKEN"  # noqa: S105 - the name of the setting
_NEW_TOKEN = "Copy it anew from the Bot page of your application at https://discord.com/developers/applications."  # noqa: S105
_PRIVILEGED_INTENTS = 4014
_CONTENT = "GUILDLLAMA_MESSAGE_CONTENT"
_NO_CONTENT = "is true, but Discord does not give your application the message content intent"
_ALLOW_CONTENT = (
    "Switch on Message Content Intent on the Bot page of your application at "
    "https://discord.com/developers/applications, or set it to false."
)
_UNAUTHORISED = 401
_REFUSALS = {
    4004: "was refused by Discord's gateway",
    _PRIVILEGED_INTENTS: "belongs to an application that may not even see its guilds",
}
_SHARD_REFUSALS = {
    4010: ("GUILDLLAMA_SHARD_ID", "was refused by Discord's gateway", "It must be below GUILDLLAMA_SHARD_COUNT."),
    4011: (
        "GUILDLLAMA_SHARD_COUNT",
        "is too small: the bot is in too many guilds for so few connections",
        "Run as many processes as it says, each with its own GUILDLLAMA_SHARD_ID from 0 on.",
    ),
}


def bot_token(settings: Settings) -> str:
    """The token to log in with. Raises ConfigError if it is not set."""
    token = "" if settings.discord_token is None else settings.discord_token.get_secret_value()
    if not token.strip():
        raise ConfigError(_TOKEN, "is not set", _NEW_TOKEN)
    return token


async def ask_discord(token: str) -> tuple[int, int]:
    """The id of the token's application, and how many sessions Discord lets it open at the same time.

    Retries while Discord cannot be reached. Raises ConfigError if it refuses the token.
    """
    discord.VoiceClient.warn_nacl = discord.VoiceClient.warn_dave = False  # voice is not used
    async with discord.Client(intents=discord.Intents(guilds=True)) as client:
        await _log_in(client, token)
        if client.application_id is None:
            raise ConfigError(_TOKEN, "belongs to no application", _NEW_TOKEN)
        try:
            answer = await client.http.request(Route("GET", "/gateway/bot"))
            concurrency = max(1, int(answer["session_start_limit"]["max_concurrency"]))
        except (*DISCORD_ERRORS, KeyError, TypeError, ValueError) as error:
            log.warning("Discord does not say how many sessions may be opened at once", error=type(error).__name__)
            concurrency = 1
        return client.application_id, concurrency


def set_endpoints(settings: Settings) -> None:
    """Use another Discord than the real one, for tests and proxies. Applies to the whole process."""
    if settings.discord_api_base is not None:
        Route.BASE = settings.discord_api_base.rstrip("/")
    if settings.discord_gateway_url is not None:
        DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(settings.discord_gateway_url)


async def stay_connected(client: discord.Client, token: str, guard: RequestGuard) -> None:
    """Log in and stay on the gateway until `client.close`. Raises ConfigError if Discord refuses the token."""
    await _log_in(client, token)
    tasks = {asyncio.create_task(_stay(client), name="gateway"), asyncio.create_task(_watch_token(client, guard))}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch_token(client: discord.Client, guard: RequestGuard) -> None:
    """Raise ConfigError once Discord does not take the token any more. A 401 alone may be a fault of Discord's."""
    while True:
        await guard.unauthorised.wait()
        try:
            await client.http.request(Route("GET", "/users/@me"))
        except discord.HTTPException as error:
            if error.status == _UNAUTHORISED:
                raise ConfigError(_TOKEN, "was refused by Discord", _NEW_TOKEN) from None
            await asyncio.sleep(_GATEWAY_DELAY)
        except DISCORD_ERRORS:
            await asyncio.sleep(_GATEWAY_DELAY)
        else:
            log.warning("the bot's token is valid all the same; writing goes on")
            guard.unauthorised.clear()


async def _stay(client: discord.Client) -> None:
    """Stay on the gateway until `client.close`."""
    while not client.is_closed():
        try:
            await client.connect()
        except (discord.PrivilegedIntentsRequired, discord.ConnectionClosed) as refused:
            code = refused.code if isinstance(refused, discord.ConnectionClosed) else _PRIVILEGED_INTENTS
            if code == _PRIVILEGED_INTENTS and client.intents.message_content:
                raise ConfigError(_CONTENT, _NO_CONTENT, _ALLOW_CONTENT) from None
            if code in _SHARD_REFUSALS:
                raise ConfigError(*_SHARD_REFUSALS[code]) from None
            problem = _REFUSALS.get(code, f"cannot be used: Discord's gateway closed with code {code}")
            raise ConfigError(_TOKEN, problem, _NEW_TOKEN) from None
        except Exception:
            log.exception("the gateway connection failed; trying again")
            await asyncio.sleep(_GATEWAY_DELAY)


async def _log_in(client: discord.Client, token: str) -> None:
    """Log in, and retry for as long as Discord cannot be reached."""
    for seconds in itertools.chain(_LOGIN_DELAYS, itertools.repeat(60)):
        try:
            return await client.login(token)
        except discord.LoginFailure:
            raise ConfigError(_TOKEN, "was refused by Discord", _NEW_TOKEN) from None
        except DISCORD_ERRORS as error:
            log.warning("Discord cannot be reached", error=describe_error(error), next_try_in_s=seconds)
            await client.http.close()
            client.http.connector = discord.utils.MISSING  # closed with the session; the next login makes another
            await asyncio.sleep(seconds)


class _Events:
    """Which events of the gateway session were handled: after a RESUME, Discord may send some of them again."""

    def __init__(self) -> None:
        self._connection: DiscordWebSocket | None = None
        self._session_id: str | None = None
        self._last = 0  # the number of the last event
        self._handled = 0  # up to this number, over earlier connections of the session

    def is_repeat(self, connection: DiscordWebSocket | None) -> bool:
        """Whether the event that is being read now was handled over an earlier connection."""
        if connection is None or connection.sequence is None:
            return False
        if connection.session_id != self._session_id:
            self._session_id, self._handled, self._last = connection.session_id, 0, 0
        elif connection is not self._connection:
            self._handled = self._last
        self._connection = connection
        self._last = max(self._last, connection.sequence)
        return connection.sequence <= self._handled


def skip_unreadable_events(client: discord.Client) -> None:
    """Skip events that were handled already, and log those that discord.py cannot parse.

    By default an event that cannot be parsed ends the gateway session.
    """
    parsers, events = client._connection.parsers, _Events()
    wrapped = {event: _guarded(client, events, event, parse) for event, parse in parsers.items() if event != "READY"}
    parsers.update(wrapped)


def _guarded(
    client: discord.Client, events: _Events, event: str, parse: Callable[[Any], None]
) -> Callable[[Any], None]:
    def parse_or_log(data: Any) -> None:
        if events.is_repeat(client.ws):
            log.info("an event that was handled before was skipped", gateway_event=event)
            return
        event_arrived()
        try:
            parse(data)
        except Exception:
            log.exception("a gateway event could not be read and was skipped", gateway_event=event)

    return parse_or_log
