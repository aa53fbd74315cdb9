"""The commands on the entries of a library: create, edit, tags, list, delete, versions. A guild's or a member's own."""

from __future__ import annotations

from zlib import crc32

import discord

from bot.cogs.dialogs.answers import OldButton, answer, begin, in_time, number
from bot.cogs.dialogs.buttons import Json, button, row
from bot.cogs.personas.announcing import announce, announce_edit, answers_here
from bot.cogs.personas.modal import PersonaForm, persona_modal, submitted_form
from bot.cogs.personas.suggestions import suggested_names
from bot.cogs.personas.text import (
    KEPT,
    bold,
    delete_text,
    list_text,
    not_set_text,
    rating_text,
    size_text,
    version_line,
)
from bot.discord_app.caller import caller_of, dialog_key
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer
from bot.discord_app.rest.message_api import MessageApi
from bot.guilds.persona_library import PersonaGone, PersonaLibrary, PersonaPage, command_of
from bot.i18n.language import N_
from bot.i18n.language import gettext as _
from models.queries.tenants.personas import shown_name
from models.types import PersonaInfo

_TITLES = {False: N_("A new persona of this guild"), True: N_("A new persona of your own")}


class PersonaEntries:
    """The entries of one kind of library. `own`: that of who uses the command."""

    def __init__(self, context: CommandContext, api: MessageApi, *, own: bool) -> None:
        self._context = context
        self._api = api
        self._own = own
        self._word = "me" if own else "persona"
        """The first word of the custom ids, for which the gate checks the permission to change the library."""

    async def create(self, interaction: Interaction, name: str | None) -> None:
        """Open the form for a new entry."""
        form = PersonaForm(prompt="", name=name or "", tags="")
        await interaction.response.send_modal(
            persona_modal(f"{self._word}:create", _(_TITLES[self._own]), form, max_chars=self._max_chars, editing=True)
        )

    async def created(self, interaction: Interaction) -> None:
        """Store what the form for a new entry says."""
        if not await defer(interaction, ephemeral=True):
            return
        form = submitted_form(interaction)
        entry, size = await self._library.create(
            dialog_key(caller_of(interaction)),
            form.name or "",
            form.prompt or "",
            own=self._own,
            tags=form.tags or "",
            actor_id=interaction.user.id,
        )
        hint = _("{name} is stored. `{command} set` lets it answer.")
        hint = hint.format(name=bold(entry.name), command=command_of(self._own))
        await self._context.respond(interaction, "\n".join(filter(None, [hint, size_text(size)])))

    async def edit(self, interaction: Interaction, name: str) -> None:
        """Open the form with an entry."""
        async with in_time():
            key = dialog_key(caller_of(interaction))
            entry = await self._library.named(key, name, own=self._own)
            version = await self._library.text(key, entry.persona_id, own=self._own)
        form = PersonaForm(prompt=version.prompt, name=entry.name, tags=_tags(entry))
        await interaction.response.send_modal(
            persona_modal(
                f"{self._word}:edit:{entry.persona_id}:{version.version}:{_marks(entry)}",
                _("Change a persona"),
                form,
                max_chars=self._max_chars,
                editing=True,
            )
        )

    async def edited(self, interaction: Interaction, argument: str) -> None:
        """Store what the form says: what its writer did not change stays as it is now, also if another one changed it.

        `argument`: the entry, and what the form showed of it.
        """
        persona_id, seen_version, seen = _shown_in(argument)
        if not await defer(interaction, ephemeral=True):
            return
        key, by, own = dialog_key(caller_of(interaction)), interaction.user.id, self._own
        form = submitted_form(interaction)
        entry = await self._library.get(key, persona_id, own=own)
        versions = await self._library.versions(key, persona_id, own=own)
        now = next((each for each in versions if each.active), None)
        if now is None:
            raise PersonaGone()
        shown = next((each for each in versions if each.version == seen_version), now)
        prompt, size = (form.prompt or "").strip(), None
        if edited := prompt not in ("", shown.prompt, now.prompt):
            entry, size = await self._library.edit(key, persona_id, prompt, own=own, actor_id=by)
        if form.name is not None and form.name != entry.name and _mark(form.name) not in seen:
            entry = await self._library.rename(key, persona_id, form.name, own=own, actor_id=by)
        if form.tags is not None and form.tags != _tags(entry) and _mark(form.tags) not in seen:
            entry = await self._library.tag(key, persona_id, form.tags, own=own, actor_id=by)
        text = _("{name} is stored.")
        if edited:
            text = _("{name} is stored, version {version}.")
        if edited and shown is not now:
            text = _(
                "{name} is stored, version {version} (while you wrote, it got version {other}, which "
                "`{command} rollback` brings back)."
            )
        text = text.format(
            name=bold(entry.name), version=entry.active_version, other=now.version, command=command_of(own)
        )
        text = f"{text} {_(KEPT)}"
        await self._context.respond(interaction, "\n".join(filter(None, [text, size_text(size)])))
        if edited and not own:
            await announce_edit(self._context, interaction, entry)

    async def tag(self, interaction: Interaction, name: str, tags: str) -> None:
        """Give an entry other tags."""
        if not await defer(interaction, ephemeral=True):
            return
        key, by = dialog_key(caller_of(interaction)), interaction.user.id
        found = await self._library.named(key, name, own=self._own)
        entry = await self._library.tag(key, found.persona_id, tags, own=self._own, actor_id=by)
        listed = ", ".join(bold(tag) for tag in entry.tags)
        text = _("{name} has the tags {tags}.") if listed else _("{name} has no tags any more.")
        await self._context.respond(interaction, text.format(name=bold(entry.name), tags=listed))

    async def rate(self, interaction: Interaction, name: str, *, age_restricted: bool) -> None:
        """Let an entry answer only in channels that Discord restricts by age, or everywhere."""
        if not await defer(interaction, ephemeral=True):
            return
        key, by = dialog_key(caller_of(interaction)), interaction.user.id
        found = await self._library.named(key, name, own=self._own)
        entry = await self._library.rate(
            key, found.persona_id, age_restricted=age_restricted, own=self._own, actor_id=by
        )
        await self._context.respond(interaction, rating_text(entry.name, age_restricted=entry.age_restricted))

    async def show_list(self, interaction: Interaction, tag: str | None) -> None:
        """Show the first page of the library."""
        if await begin(interaction):
            page = await self._library.page(dialog_key(caller_of(interaction)), own=self._own, tag=tag or "")
            await self._answer_list(interaction, page, tag or "")

    async def turn_page(self, interaction: Interaction, argument: str) -> None:
        """Show the page after or before an entry. `argument`: which side, the entry, and the tag."""
        side, _, rest = argument.partition(":")
        persona_id, _, tag = rest.partition(":")
        if side not in ("after", "before"):
            raise OldButton()
        at = number(persona_id)
        if await begin(interaction):
            key = dialog_key(caller_of(interaction))
            after, before = (at, None) if side == "after" else (None, at)
            page = await self._library.page(key, own=self._own, tag=tag, after=after, before=before)
            await self._answer_list(interaction, page, tag)

    async def delete(self, interaction: Interaction, name: str) -> None:
        """Ask for confirmation, and say where the entry answers and plays."""
        if not await begin(interaction):
            return
        key = dialog_key(caller_of(interaction))
        entry = await self._library.named(key, name, own=self._own)
        places = await self._library.places(key, entry.persona_id, own=self._own)
        scenes = {} if self._own else await self._context.personas.scenes.of_persona(key, entry.persona_id)
        confirm = row(button(_("Delete it"), f"{self._word}:delete:{entry.persona_id}", danger=True))
        await answer(self._api, interaction, delete_text(entry, places, scenes), confirm)

    async def delete_confirmed(self, interaction: Interaction, argument: str) -> None:
        """Delete the entry. `argument`: which one; it is looked for in the library of who presses."""
        persona_id = number(argument)
        if await begin(interaction):
            key, by = dialog_key(caller_of(interaction)), interaction.user.id
            answered = not self._own and await answers_here(self._context, interaction, persona_id)
            deleted = await self._library.delete(key, persona_id, own=self._own, actor_id=by)
            said = _("It is deleted.") if deleted else _("It had been deleted already.")
            await answer(self._api, interaction, said)
            if answered and deleted:
                text = _("-# The persona that answered here is gone. Our conversations go on.")
                await announce(self._context, interaction, text)

    async def versions(self, interaction: Interaction, name: str | None) -> None:
        """List the versions that are kept, of an entry or of the one that is set."""
        if not await defer(interaction, ephemeral=True):
            return
        key, own = dialog_key(caller_of(interaction)), self._own
        if name is None:
            entry = await self._context.personas.entry_at(key, "member" if own else "guild")
        else:
            entry = await self._library.named(key, name, own=own)
        if entry is None:
            await self._context.respond(interaction, not_set_text("member" if own else "guild", 0))
            return
        versions = await self._library.versions(key, entry.persona_id, own=own)
        title = []
        if shown_name(entry.name) and name is not None:
            title = [_("The versions of {name}:").format(name=bold(entry.name))]
        hint = _("`{command} rollback` puts one of them back in force.").format(command=command_of(own))
        await self._context.respond(interaction, "\n".join([*title, *map(version_line, versions), hint]))

    async def suggestions(self, interaction: Interaction, typed: str) -> list[discord.app_commands.Choice[str]]:
        """The names that contain what was typed."""
        return await suggested_names(self._library, interaction, typed, own=self._own)

    async def _answer_list(self, interaction: Interaction, page: PersonaPage, tag: str) -> None:
        await answer(self._api, interaction, list_text(page, own=self._own, tag=tag), self._arrows(page, tag))

    def _arrows(self, page: PersonaPage, tag: str) -> list[Json]:
        """◀ ▶ where there is another page. Everyone may read a guild's list: its buttons have their own word."""
        if not page.entries or not (page.has_earlier or page.has_later):
            return []
        word = "me:list" if self._own else "personas:list"

        def arrow(label: str, side: str, entry: PersonaInfo, there: bool) -> Json:
            return button(label, f"{word}:{side}:{entry.persona_id}:{tag}"[:100], disabled=not there)

        return row(
            arrow("◀", "before", page.entries[0], page.has_earlier),
            arrow("▶", "after", page.entries[-1], page.has_later),
        )

    @property
    def _library(self) -> PersonaLibrary:
        return self._context.personas.library

    @property
    def _max_chars(self) -> int:
        return self._context.settings.max_persona_chars


def _tags(entry: PersonaInfo) -> str:
    return ", ".join(entry.tags)


def _mark(text: str) -> str:
    """A few letters that tell what stood in a field of a form from what its writer made of it."""
    return f"{crc32(text.encode('utf-8', 'replace')):x}"


def _marks(entry: PersonaInfo) -> str:
    return f"{_mark(entry.name)}:{_mark(_tags(entry))}"


def _shown_in(argument: str) -> tuple[int, int | None, frozenset[str]]:
    """The entry of a form, its version and the marks of its fields; a form of an earlier version has neither."""
    persona_id, *rest = argument.split(":")
    return number(persona_id), number(rest[0]) if rest else None, frozenset(rest[1:])
