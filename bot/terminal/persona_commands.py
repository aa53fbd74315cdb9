"""The work of the persona commands, once their options are parsed. The operator may change every library."""

from __future__ import annotations

from collections.abc import Awaitable

import typer

from bot.errors import ConfigError
from bot.guilds.personas import SavedPersona
from bot.services import Services
from bot.settings import Settings
from bot.terminal.commands import with_services
from models.types import DialogKey, PersonaAssignmentInfo, PersonaText, StoredLevel


def show_persona(settings: Settings, guild: int, user: int | None, application: int | None) -> None:
    """Print the persona that applies in a guild, or to one member in it."""

    def show(services: Services) -> Awaitable[PersonaText]:
        # There is no user 0, so this is the guild's persona.
        return services.personas.show(DialogKey(guild, user or 0))

    persona = with_services(settings, show, application)
    named = f" {persona.name!r}" if persona.name else ""
    typer.echo(f"{persona.prompt}\n({persona.level} persona{named}, version {persona.version})")


def set_persona(
    settings: Settings, guild: int, user: int | None, application: int | None, prompt: str, name: str
) -> None:
    """Set the persona of a guild, or of one member in it. Raises ConfigError or BotError."""
    level = _level(guild, user)

    def store(services: Services) -> Awaitable[SavedPersona]:
        return services.personas.set(DialogKey(guild, user or 0), level, prompt, name, author_id=user)

    stored = with_services(settings, store, application)
    typer.echo(f"Set for the {level}, version {stored.version}.")


def clear_persona(settings: Settings, guild: int, user: int | None, application: int | None) -> None:
    """Clear the persona of a guild, or of one member in it. Raises ConfigError or BotError."""
    level = _level(guild, user)
    cleared = with_services(
        settings, lambda services: services.personas.clear(DialogKey(guild, user or 0), level), application
    )
    typer.echo("Cleared." if cleared else "There was none.")


def _level(guild: int, user: int | None) -> StoredLevel:
    if guild == 0 and user is None:
        raise ConfigError("--guild", "direct messages have no persona in common", "Name a --guild, a --user or both.")
    return "guild" if user is None else "member"


def list_personas(settings: Settings, guild: int, user: int | None, application: int | None) -> None:
    """Print the names of a library with their tags, and where each of them answers. Raises ConfigError or BotError."""
    own = _level(guild, user) == "member"
    key = DialogKey(guild, user or 0)

    async def lines(services: Services) -> list[str]:
        found: list[str] = []
        after = None
        while True:
            page = await services.personas.library.page(key, own=own, after=after)
            for entry in page.entries:
                tags = "".join(f" #{tag}" for tag in entry.tags)
                answers = ", ".join(map(_place, page.places[entry.persona_id]))
                found.append(f"{entry.name}{tags}{f' ({answers})' if answers else ''}")
            if not page.has_later:
                return found
            after = page.entries[-1].persona_id

    typer.echo("\n".join(with_services(settings, lines, application)) or "There is none.")


def create_persona(
    settings: Settings, guild: int, user: int | None, application: int | None, name: str, prompt: str
) -> None:
    """Add an entry to a library. Raises ConfigError or BotError."""
    own = _level(guild, user) == "member"
    key = DialogKey(guild, user or 0)
    entry, _ = with_services(
        settings,
        lambda services: services.personas.library.create(key, name, prompt, own=own, actor_id=user),
        application,
    )
    typer.echo(f"Stored as {entry.name!r}.")


def delete_persona(settings: Settings, guild: int, user: int | None, application: int | None, name: str) -> None:
    """Delete an entry of a library. Raises ConfigError or BotError."""
    own = _level(guild, user) == "member"
    key = DialogKey(guild, user or 0)

    async def delete(services: Services) -> None:
        library = services.personas.library
        entry = await library.named(key, name, own=own)
        await library.delete(key, entry.persona_id, own=own, actor_id=user)

    with_services(settings, delete, application)
    typer.echo("Deleted.")


def _place(place: PersonaAssignmentInfo) -> str:
    return place.level if not place.place_id else f"{place.level} {place.place_id}"
