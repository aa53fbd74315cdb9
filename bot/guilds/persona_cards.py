"""Personas made from character cards, and personas written as cards: in and out of the libraries of personas.

Knows what every prompt of a character has, and the operator's limits of it. Knows no files of Discord and no
permissions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from bot.characters.assembly import template_of
from bot.characters.card import CharacterCard, read_card, with_greeting
from bot.characters.files.export import edited_card, export_json, export_png, plain_card
from bot.characters.files.json_card import parse, write
from bot.characters.preview import limited_text
from bot.errors import Hint, PersonaExists
from bot.guilds.persona_checks import MAX_TAG_CHARS, MAX_TAGS, PersonaLimits, PersonaSize, required_name
from bot.guilds.persona_library import (
    MAX_GUILD_PERSONAS,
    MAX_OWN_PERSONAS,
    PersonaGone,
    PersonaLibrary,
    audit,
    command_of,
    library_errors,
)
from bot.i18n.language import N_
from bot.i18n.language import gettext as _
from bot.storage import translate_database_errors
from models.database import Database, Session
from models.queries import edit_persona, get_persona
from models.queries.tenants.persona_cards import import_persona, stored_card
from models.types import DialogKey, PersonaInfo, StoredCard

CardFormat = Literal["png", "json"]
MAX_FILE_BYTES = 64 << 20
NO_GREETINGS = N_("This persona has no greetings to choose from: they come with character cards.")


@dataclass(frozen=True, slots=True)
class CardFile:
    """A persona as a file."""

    name: str
    data: bytes = field(repr=False)


class PersonaCards:
    """Imports and exports for the libraries of every guild. Each method raises DatabaseUnavailable."""

    def __init__(
        self,
        database: Database,
        limits: PersonaLimits,
        library: PersonaLibrary,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_change`: called after a card was stored."""
        self._database = database
        self._limits = limits
        self._library = library
        self._on_change = on_change

    async def size(self, key: DialogKey, card: CharacterCard) -> PersonaSize | None:
        """What the character takes of the context in every prompt; None if the engine cannot count now.

        Raises PersonaTooLong for one that takes too much.
        """
        return await self._limits.check_character(key, limited_text(card))

    async def free_name(self, key: DialogKey, card: CharacterCard, *, own: bool, name: str, replace: bool) -> str:
        """The name that the persona would have. Raises PersonaExists, or what the check of a name does."""
        name = required_name(name or card.name)
        if not replace and await self._library.find(key, name, own=own) is not None:
            hint = _("`name` gives it another one, and `replace` puts it in place of that one.")
            raise PersonaExists(name, command_of(own), hint=hint)
        return name

    async def store(
        self,
        key: DialogKey,
        card: CharacterCard,
        *,
        own: bool,
        name: str,
        picture: bytes = b"",
        greeting: int = 0,
        replace: bool = False,
        actor_id: int | None,
    ) -> PersonaInfo:
        """Put a card into a library. `picture`: a PNG. Raises PersonaExists, TooManyPersonas or PersonaTooLong."""
        await self.size(key, card)
        name, now = required_name(name), datetime.now(UTC)
        stored = StoredCard(template_of(card), write(with_greeting(card.raw, greeting)), picture)
        tags = tuple(dict.fromkeys(" ".join(tag.split()) for tag in card.tags if len(tag) <= MAX_TAG_CHARS))

        async def change(session: Session) -> PersonaInfo:
            made = await import_persona(
                session,
                key=key,
                own=own,
                name=name,
                card=stored,
                tags=tuple(tag for tag in tags if tag)[:MAX_TAGS],
                age_restricted=card.is_age_restricted,
                replace=replace,
                author_id=actor_id,
                limit=MAX_OWN_PERSONAS if own else MAX_GUILD_PERSONAS,
                now=now,
            )
            done = {"persona": made.persona_id, "version": made.active_version}
            await audit(session, key, own, "persona.import", actor_id, now, **done)
            return made

        with translate_database_errors(), library_errors(own):
            made = await self._database.run(change)
        self._on_change()
        return made

    async def greetings(self, key: DialogKey, persona: PersonaInfo, *, own: bool) -> CharacterCard | None:
        """The card of an entry, with its greetings; None if it was not made from one. Raises PersonaGone."""
        found = await self._stored(key, persona, own=own)
        return None if found.json is None else await asyncio.to_thread(_card, found.json)

    async def choose_greeting(
        self, key: DialogKey, persona: PersonaInfo, greeting: int, *, own: bool, actor_id: int | None
    ) -> CharacterCard:
        """Let conversations begin with another greeting of the card: a new version of the entry, which is returned.

        Raises PersonaGone, or Hint if there is no such greeting, or if the entry was changed since `persona` was read.
        """
        found, now = await self._stored(key, persona, own=own), datetime.now(UTC)
        if found.json is None:
            raise Hint(_(NO_GREETINGS))
        card = await asyncio.to_thread(_card, found.json)
        if greeting >= len(card.greetings) or not card.greetings[greeting].strip():
            raise Hint(_("This character has no such greeting any more. Please use the command again."))
        if greeting == card.greeting:
            return card
        chosen = await asyncio.to_thread(lambda: write(with_greeting(card.raw, greeting)))

        async def change(session: Session) -> PersonaInfo | None:
            known = await get_persona(session, key=key, own=own, persona_id=persona.persona_id)
            if known is None or known.active_version != persona.active_version:
                return known
            made = await edit_persona(
                session,
                key=key,
                own=own,
                persona_id=persona.persona_id,
                prompt=found.prompt,
                card=chosen,
                author_id=actor_id,
                now=now,
            )
            if made is not None:
                done = {"persona": made.persona_id, "version": made.active_version, "greeting": greeting}
                await audit(session, key, own, "persona.greeting", actor_id, now, **done)
            return made

        with translate_database_errors():
            made = await self._database.run(change)
        if made is None:
            raise PersonaGone()
        if made.active_version == persona.active_version:
            raise Hint(_("This persona was changed meanwhile. Please use the command again."))
        self._on_change()
        return replace(card, greeting=greeting)

    async def _stored(self, key: DialogKey, persona: PersonaInfo, *, own: bool) -> StoredCard:
        with translate_database_errors():
            async with self._database.read() as session:
                found = await stored_card(session, key=key, own=own, persona_id=persona.persona_id)
        if found is None:
            raise PersonaGone()
        return found

    async def export(
        self, key: DialogKey, persona: PersonaInfo, *, own: bool, form: CardFormat, max_bytes: int = MAX_FILE_BYTES
    ) -> CardFile:
        """An entry of a library as a card's file. Raises PersonaGone, or Hint for one of more than `max_bytes`."""
        found = await self._stored(key, persona, own=own)
        data = await asyncio.to_thread(_file, persona.name, found, form, max_bytes)
        if len(data) > max_bytes:
            text = _("This card has {size} MiB, more than Discord takes here.")
            if form == "png":
                text = _("This card has {size} MiB, more than Discord takes here; as JSON it is smaller.")
            raise Hint(text.format(size=len(data) >> 20))
        return CardFile(f"{persona.name}.{form}", data)


def _card(json: str) -> CharacterCard:
    return read_card(parse(json))


def _file(name: str, found: StoredCard, form: CardFormat, max_bytes: int) -> bytes:
    """The file; a picture that gets too large is without the card for readers of version 2."""
    raw = _exported(name, found)
    if form == "json":
        return export_json(raw)
    data = export_png(raw, found.picture)
    return data if len(data) <= max_bytes else export_png(raw, found.picture, for_version_2=False)


def _exported(name: str, found: StoredCard) -> dict[str, Any]:
    """The card of an entry, with the text that it has now; a name that was changed here stays ours."""
    if found.json is None:
        return plain_card(name, found.prompt)
    raw = parse(found.json)
    return raw if found.prompt == template_of(read_card(raw)) else edited_card(raw, found.prompt)
