"""Tells Discord about our commands, but only when it knows other ones: each change costs every client its cache.

Discord itself is asked what it knows, so no file of ours can be wrong about it. Knows the JSON of commands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import discord
import structlog
from discord import app_commands

log = structlog.get_logger(__name__)

Json = Mapping[str, object]

_OUTDATED = frozenset({"dm_permission"})  # `contexts` says it all, and Discord makes of this one what it likes


async def sync_commands(client: discord.Client, tree: app_commands.CommandTree[discord.Client]) -> None:
    ours = [command.to_dict(tree) for command in tree.get_commands()]
    if client.application_id is None:
        raise RuntimeError("commands are synced after the login")
    try:
        theirs = await client.http.get_global_commands(client.application_id)
    except discord.HTTPException as error:
        log.warning("could not ask Discord which commands it knows", status=error.status, code=error.code)
        theirs = []
    if same_commands(ours, theirs):
        log.info("commands are up to date", commands=len(ours))
        return
    await tree.sync()
    log.info("commands were registered", commands=len(ours))


def same_commands(ours: Sequence[Json], theirs: Sequence[Json]) -> bool:
    """Whether Discord knows exactly these commands, whatever ids and defaults it adds."""
    known = {(command.get("name"), command.get("type", 1)): command for command in theirs}
    return len(known) == len(ours) and all(
        _contains(known.get((command.get("name"), command.get("type", 1)), {}), command) for command in ours
    )


def _contains(theirs: object, ours: object) -> bool:
    if isinstance(ours, Mapping):
        asked = {key: value for key, value in ours.items() if key not in _OUTDATED}
        return isinstance(theirs, Mapping) and all(_contains(theirs.get(key), value) for key, value in asked.items())
    if isinstance(ours, list | tuple):
        return (not ours and not theirs) or (
            isinstance(theirs, list | tuple)
            and len(theirs) == len(ours)
            and all(_contains(their, our) for their, our in zip(theirs, ours, strict=True))
        )
    if not ours and not theirs:
        return True  # False, None, empty and left out are one and the same
    return str(ours) == str(theirs)  # permissions are a number in a request and a string in an answer
