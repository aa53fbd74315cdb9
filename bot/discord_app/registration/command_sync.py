"""Registers the commands with Discord, but only when they differ: each change invalidates every client's cache.

The comparison is with what Discord itself lists, so no local file can be out of date. Texts in other languages count as
well. Knows the JSON of commands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import discord
import structlog
from discord import app_commands
from discord.http import Route

from bot.discord_app.delivery import DISCORD_ERRORS, describe_error

log = structlog.get_logger(__name__)

Json = Mapping[str, object]
AnyCommand = app_commands.ContextMenu | app_commands.Command[Any, ..., Any] | app_commands.Group

_DEPRECATED = frozenset({"dm_permission"})  # `contexts` replaces it, and Discord derives its value
_LOCALIZATIONS = ("name_localizations", "description_localizations")


async def sync_commands(client: discord.Client, tree: app_commands.CommandTree[discord.Client]) -> None:
    """Compare and, where needed, register. Call after login. Discord's errors are logged: the next start repeats it."""
    try:
        await _sync(client, tree)
    except (*DISCORD_ERRORS, app_commands.CommandSyncFailure) as error:
        log.error("commands could not be registered; the next start tries again", error=describe_error(error))


async def _sync(client: discord.Client, tree: app_commands.CommandTree[discord.Client]) -> None:
    if client.application_id is None:
        raise RuntimeError("commands are synced after the login")
    commands = await payloads(tree)
    try:
        registered = await _registered(client, client.application_id)
    except discord.HTTPException as error:
        log.warning("could not ask Discord which commands it knows", status=error.status, code=error.code)
        registered = []
    if same_commands(commands, registered):
        log.info("commands are up to date", commands=len(commands))
        return
    await tree.sync()
    log.info("commands were registered", commands=len(commands))


async def payloads(tree: app_commands.CommandTree[Any]) -> list[Json]:
    """The commands of a tree as they would be registered."""
    return [await _payload(command, tree) for command in tree.get_commands()]


async def _payload(command: AnyCommand, tree: app_commands.CommandTree[Any]) -> Json:
    """The command as it would be registered, with its texts in every language."""
    if tree.translator is None:
        return command.to_dict(tree)
    return await command.get_translated_payload(tree, tree.translator)


async def _registered(client: discord.Client, application_id: int) -> list[Json]:
    """The commands that Discord knows, with their translations, which it leaves out unless asked for."""
    route = Route("GET", "/applications/{application_id}/commands", application_id=application_id)
    found: list[Json] = await client.http.request(route, params={"with_localizations": "true"})
    return found


def same_commands(commands: Sequence[Json], registered: Sequence[Json]) -> bool:
    """Whether exactly these commands are registered, ignoring the ids and defaults that Discord adds."""
    return not differing_commands(commands, registered)


def differing_commands(commands: Sequence[Json], registered: Sequence[Json]) -> tuple[str, ...]:
    """The names of the commands that are registered otherwise, or only there, or only here."""
    theirs, ours = _by_name(registered), _by_name(commands)
    changed = [key for key, command in ours.items() if not _contains(theirs.get(key, {}), command)]
    return tuple(str(name) for name, _ in [*changed, *(key for key in theirs if key not in ours)])


def _by_name(commands: Sequence[Json]) -> dict[tuple[object, object], Json]:
    return {(command.get("name"), command.get("type", 1)): command for command in commands}


def _contains(registered: object, wanted: object) -> bool:
    """Whether the registered JSON says everything that the wanted JSON says."""
    if not wanted and not registered:
        return True  # False, None, empty and left out mean the same
    if isinstance(wanted, Mapping):
        fields = {key: value for key, value in wanted.items() if key not in _DEPRECATED}
        return (
            isinstance(registered, Mapping)
            and all(_contains(registered.get(key), value) for key, value in fields.items())
            # A language that was taken away is a difference, too.
            and all((registered.get(key) or {}) == (wanted.get(key) or {}) for key in _LOCALIZATIONS)
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(registered, list | tuple)
            and len(registered) == len(wanted)
            and all(_contains(theirs, ours) for theirs, ours in zip(registered, wanted, strict=True))
        )
    return str(wanted) == str(registered)  # permissions are a number in a request and a string in a response
