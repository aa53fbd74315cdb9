"""Discord: the token, intents, starts that are left, permissions in each guild, and whether its commands are ours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from bot.settings import Settings
from bot.terminal.doctor.commands import differing_from
from bot.terminal.doctor.discord_api import DiscordApi, GuildLine, Refused, Unreachable
from bot.terminal.doctor.findings import Finding, bad, note, ok

_RENEW = (
    "press Reset Token on the Bot page of https://discord.com/developers/applications, "
    "and put the token into .env: `guildllama init`"
)
_CONTENT_FLAGS = 1 << 18 | 1 << 19
MOST_SECONDS_APART = 30.0
_NAMED = 5  # guilds that are named one by one

NEEDED = {
    "View Channels": 1 << 10,
    "Send Messages": 1 << 11,
    "Attach Files": 1 << 15,
    "Read Message History": 1 << 16,
    "Create Public Threads": 1 << 35,
    "Send Messages in Threads": 1 << 38,
}
"""Discord's names of the permissions, and their bits."""
_ADMINISTRATOR = 1 << 3


def findings(settings: Settings) -> Iterator[Finding]:
    """Of what Discord says of the bot. Without a token, and while Discord is away, there is nothing to ask."""
    token = "" if settings.discord_token is None else settings.discord_token.get_secret_value().strip()
    if not token:
        yield note(
            "discord",
            "GUILDLLAMA_DISCORD_TOKEN is not set; the terminal chat needs none, `guildllama run` does",
            "guildllama init",
        )
    elif token.count(".") != 2:
        yield bad(
            "discord", "GUILDLLAMA_DISCORD_TOKEN does not look like a token (three parts with dots between)", _RENEW
        )
    else:
        yield from asyncio.run(_ask(settings, token))


async def _ask(settings: Settings, token: str) -> list[Finding]:
    found: list[Finding] = []
    async with DiscordApi(settings, token) as api:
        try:
            application = await api.get("/applications/@me")
            found += list(_application(settings, application))
            found += list(_gateway(settings, await api.get("/gateway/bot")))
            application_id = int(application["id"])
            found += list(_guilds(await api.guilds(), application_id))
            path = f"/applications/{application_id}/commands"
            registered = await api.get(path, {"with_localizations": "true"})
            found += await _commands(settings, registered)
            found += list(_clock(api.clock))
        except Refused as error:
            if error.status == 401:
                found.append(bad("discord", "GUILDLLAMA_DISCORD_TOKEN was refused by Discord", _RENEW))
            else:
                found.append(note("discord", f"Discord did not answer everything: {error}", "try again later"))
        except Unreachable as error:
            fix = "check network and DNS: curl -I https://discord.com/api/v10/gateway"
            found.append(note("discord", f"a token is set, but Discord could not be asked: {error}", fix))
        except (KeyError, TypeError, ValueError) as error:
            what = f"the answer is none of Discord's: {type(error).__name__}"
            found.append(bad("discord", what, "check GUILDLLAMA_DISCORD_API_BASE"))
    return found


def _application(settings: Settings, application: Any) -> Iterator[Finding]:
    yield ok("discord", f"the token is that of {application['name']}, application {application['id']}")
    if settings.message_content and not int(application.get("flags") or 0) & _CONTENT_FLAGS:
        yield bad(
            "intents",
            "GUILDLLAMA_MESSAGE_CONTENT is true, but the application has no Message Content Intent",
            "switch it on, on the Bot page of https://discord.com/developers/applications, or set it to false",
        )


def _gateway(settings: Settings, answer: Any) -> Iterator[Finding]:
    shards, limit = int(answer["shards"]), answer["session_start_limit"]
    own = settings.shard_count or 1 if settings.shard_plan is None else settings.shard_plan.count
    if shards > own:
        yield (bad if shards > 2 * own else note)(
            "shards",
            f"Discord asks for {shards} connections, and there are {own}",
            f"GUILDLLAMA_SHARDS=0-{shards - 1}/{shards}, or auto/{shards} for several processes on Postgres",
        )
    left, total = int(limit["remaining"]), int(limit["total"])
    if left * 20 < total:
        minutes = int(limit["reset_after"]) // 60_000
        yield (bad if left < 2 else note)(
            "gateway",
            f"{left} of {total} starts are left for the next {minutes} minutes: the bot was started too often",
            "stop what restarts it: journalctl -u guildllama",
        )


def _guilds(guilds: Sequence[GuildLine], application_id: int) -> Iterator[Finding]:
    invite = (
        f"https://discord.com/oauth2/authorize?client_id={application_id}"
        f"&scope=bot+applications.commands&permissions={sum(NEEDED.values())}"
    )
    if not guilds:
        yield note("guilds", "the bot is in no guild", f"open {invite}")
        return
    lacking = {guild: _missing(guild.permissions) for guild in guilds}
    worst = [(guild, names) for guild, names in lacking.items() if names]
    for guild, names in worst[:_NAMED]:
        yield note(
            "permissions", f"{guild.name} ({guild.id}) does not give the bot {', '.join(names)}", f"open {invite}"
        )
    if len(worst) > _NAMED:
        yield note("permissions", f"{len(worst) - _NAMED} more guilds do not either", f"open {invite}")
    if not worst:
        yield ok("guilds", f"{len(guilds)}, each with the permissions that the bot uses")


def _missing(permissions: int) -> tuple[str, ...]:
    if permissions & _ADMINISTRATOR:
        return ()
    return tuple(name for name, bit in NEEDED.items() if not permissions & bit)


async def _commands(settings: Settings, registered: Any) -> list[Finding]:
    differing = await differing_from(settings, registered)
    if not differing:
        return [ok("commands", f"{len(registered)} are registered, and are those of this version")]
    shown = ", ".join(differing[:5]) + (" …" if len(differing) > 5 else "")
    return [
        note(
            "commands",
            f"Discord's list differs from this version's in {len(differing)}: {shown}",
            "guildllama run, which registers them at its start",
        )
    ]


def _clock(theirs: datetime | None) -> Iterator[Finding]:
    if theirs is None:
        return
    apart = abs((datetime.now(UTC) - theirs).total_seconds())
    if apart > MOST_SECONDS_APART:
        yield bad("clock", f"this clock is {apart:.0f} s away from Discord's", "timedatectl set-ntp true")
    else:
        yield ok("clock", "as Discord's")
