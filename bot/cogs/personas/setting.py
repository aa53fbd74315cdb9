"""Which persona answers where: set, clear, show, roll back. The same for the guild's places and for a member.

Who may do it was decided by the gate before any of this runs. What an admin changes is said in the channel, too.
"""

from __future__ import annotations

import asyncio

from bot.cogs.personas.afresh import ConversationEnder, DialogChoice, choice_of
from bot.cogs.personas.announcing import announce, announce_edit, narrowest_place
from bot.cogs.personas.answering import answering_text
from bot.cogs.personas.modal import PersonaForm, persona_modal, submitted_form
from bot.cogs.personas.places import GUILD, MEMBER, Slot, slot_of_word
from bot.cogs.personas.text import (
    BARRED,
    KEPT,
    MODAL_TITLES,
    cleared_text,
    name_of,
    not_set_text,
    now_text,
    places_text,
    public_clear_text,
    public_text,
    quoted_prompt,
    restricted_note,
    size_text,
)
from bot.discord_app.caller import Caller, caller_of, dialog_key
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer
from bot.discord_app.permissions.own_persona import own_persona_barrier, persona_scope
from bot.discord_app.rest.channel_webhooks import ChannelWebhooks
from bot.discord_app.rest.message_api import MessageApi
from bot.errors import BotError, DatabaseUnavailable
from bot.guilds.persona_checks import PersonaSize
from bot.guilds.persona_library import PersonaGone, command_of
from bot.i18n.language import N_
from bot.i18n.language import gettext as _
from models.queries.tenants.personas import shown_name
from models.types import DialogKey, PersonaInfo

_LOOK_UP_TIMEOUT = 1.0  # seconds, of the 3 in which a modal must be opened


_NARROWER = {
    "guild": N_("-# Here {name} goes on answering: it is set for this guild."),
    "category": N_("-# Here {name} goes on answering: it is set for this category."),
    "channel": N_("-# Here {name} goes on answering: it is set for this channel."),
    "thread": N_("-# Here {name} goes on answering: it is set for this thread."),
}


class PersonaSetting:
    """The commands that decide who answers."""

    def __init__(self, context: CommandContext, api: MessageApi) -> None:
        self._context = context
        self._webhooks: ChannelWebhooks = api.webhooks
        self.conversations = ConversationEnder(context, api)

    async def set(
        self,
        interaction: Interaction,
        slot: Slot,
        name: str | None,
        prompt: str | None,
        choice: DialogChoice,
        age_restricted: bool | None = None,
    ) -> None:
        """Set a persona of the library, a new text, or open the form to write one.

        `age_restricted`: whether it answers only in such channels; None leaves that as it is.
        """
        caller = caller_of(interaction)
        if prompt is not None:
            if await defer(interaction, ephemeral=True):
                await self._store(interaction, slot, prompt, name or "", choice, age_restricted)
            return
        entry, form = await self._look_up(dialog_key(caller), slot, name)
        if entry is not None:
            if await defer(interaction, ephemeral=True):
                await self._rate(interaction, slot, entry.persona_id, age_restricted)
                await self._assign(interaction, slot, entry, choice)
            return
        rating = "" if age_restricted is None else f":{int(age_restricted)}"
        custom_id = f"{'me' if slot.own else 'persona'}:set:{slot.word}:{choice}{rating}"
        max_chars = self._context.settings.max_persona_chars
        await interaction.response.send_modal(
            persona_modal(custom_id, _(MODAL_TITLES[slot.own]), form, max_chars=max_chars)
        )

    async def submitted(self, interaction: Interaction, own: bool, argument: str) -> None:
        """Store the fields of the form. `argument`: the place, what becomes of the conversations, and the rating."""
        word, _colon, rest = argument.partition(":")
        slot = slot_of_word(word) or (MEMBER if own else GUILD)  # a form of an earlier version named no place
        if slot.own is not own:
            raise BotError(_("This form is not for this place. Please use the command again."))
        if await defer(interaction, ephemeral=True):
            form = submitted_form(interaction)
            choice, _separator, rating = rest.partition(":")
            restricted = bool(int(rating)) if rating in ("0", "1") else None
            await self._store(interaction, slot, form.prompt or "", form.name or "", choice_of(choice), restricted)

    async def clear(self, interaction: Interaction, slot: Slot) -> None:
        """Let none be set there."""
        if not await defer(interaction, ephemeral=True):
            return
        personas = self._context.personas
        key = dialog_key(caller_of(interaction))
        cleared = await personas.clear(key, slot.level, place_id=slot.place_id, actor_id=interaction.user.id)
        text = (cleared_text if cleared else not_set_text)(slot.level, slot.place_id)
        await self._context.respond(interaction, text)
        if cleared and not slot.own:
            await announce(self._context, interaction, public_clear_text(slot.level, slot.place_id))

    async def show(self, interaction: Interaction) -> None:
        """Who answers the caller here, and why this one."""
        if not await defer(interaction, ephemeral=True):
            return
        caller = caller_of(interaction)
        settings = await self._context.guild_settings.get(caller.guild_id)
        key, scope = await self._context.current_dialog_key(interaction), persona_scope(caller, settings)
        personas = self._context.personas
        persona, levels = await personas.show(key, scope), await personas.levels(key, scope)
        face = settings.persona_face
        text = answering_text(
            caller,
            persona,
            levels,
            own_persona_barrier(caller, settings),
            shared=key.shared,
            face=face,
            scene=await personas.scenes.get(key, scope),
            problem=await personas.profiles.problem(caller.guild_id) if face == "profile" else None,
            webhook_problem=self._webhooks.problem(caller.guild_id, caller.parent_id, in_thread=caller.in_thread),
        )
        await self._context.respond(interaction, f"{text}\n\n{quoted_prompt(persona)}")

    async def show_own(self, interaction: Interaction) -> None:
        """The caller's own persona, or what they are answered with instead."""
        if not await defer(interaction, ephemeral=True):
            return
        caller = caller_of(interaction)
        settings = await self._context.guild_settings.get(caller.guild_id)
        personas, key = self._context.personas, dialog_key(caller)
        persona = await personas.get(key, "member")
        if persona is None:
            effective = await personas.show(key, persona_scope(caller, settings))
            text = f"{not_set_text('member', 0)} {quoted_prompt(effective)}"
        else:
            barred = await self._barred(interaction, caller)
            text = _("For you I am {name} here:").format(name=name_of(persona.name))
            text = f"{text}{barred}\n\n{persona.prompt}"
        await self._context.respond(interaction, text)

    async def rollback(self, interaction: Interaction, slot: Slot, name: str | None, version: int) -> None:
        """Put an earlier version in force, and if no name was given also where it answered before it was cleared."""
        if not await defer(interaction, ephemeral=True):
            return
        key, by = dialog_key(caller_of(interaction)), interaction.user.id
        personas = self._context.personas
        if name is None:
            entry = await personas.entry_at(key, slot.level, slot.place_id)
        else:
            entry = await personas.library.named(key, name, own=slot.own)
        back = entry and await personas.library.rollback(key, entry.persona_id, version, own=slot.own, actor_id=by)
        if not back:
            missing = _("I have no version {version} of it. `{command} versions` lists what I have.")
            raise BotError(missing.format(version=version, command=command_of(slot.own)))
        if name is None:
            current = await personas.get(key, slot.level, slot.place_id)
            if current is None:  # it had been cleared
                await personas.assign(key, slot.level, back.persona_id, place_id=slot.place_id, actor_id=by)
            text = now_text(shown_name(back.name), slot.level, slot.place_id)
        else:
            text = _("{name} is its version {version} again.")
            text = text.format(name=name_of(shown_name(back.name)), version=version)
        await self._context.respond(interaction, f"{text} {_(KEPT)}")
        if not slot.own:
            await announce_edit(self._context, interaction, back)

    async def _look_up(self, key: DialogKey, slot: Slot, name: str | None) -> tuple[PersonaInfo | None, PersonaForm]:
        """The entry of this name, or what the form begins with: little, if the database is slow."""
        personas = self._context.personas
        try:
            async with asyncio.timeout(_LOOK_UP_TIMEOUT):
                entry = None if name is None else await personas.library.find(key, name, own=slot.own)
                current = None if entry else await personas.get(key, slot.level, slot.place_id)
        except (TimeoutError, DatabaseUnavailable):
            return None, PersonaForm(name=name)
        prompt, shown = ("", "") if current is None else (current.prompt, current.name)
        return entry, PersonaForm(prompt=prompt, name=name or shown)

    async def _rate(self, interaction: Interaction, slot: Slot, persona_id: int, age_restricted: bool | None) -> None:
        if age_restricted is not None:
            key, by = dialog_key(caller_of(interaction)), interaction.user.id
            await self._context.personas.library.rate(
                key, persona_id, age_restricted=age_restricted, own=slot.own, actor_id=by
            )

    async def _store(
        self,
        interaction: Interaction,
        slot: Slot,
        prompt: str,
        name: str,
        choice: DialogChoice,
        age_restricted: bool | None,
    ) -> None:
        saved = await self._context.personas.set(
            dialog_key(caller_of(interaction)),
            slot.level,
            prompt,
            name=name,
            author_id=interaction.user.id,
            place_id=slot.place_id,
        )
        await self._rate(interaction, slot, saved.persona.persona_id, age_restricted)
        await self._done(interaction, slot, saved.persona.name, saved.size, choice)

    async def _assign(self, interaction: Interaction, slot: Slot, entry: PersonaInfo, choice: DialogChoice) -> None:
        personas, key = self._context.personas, dialog_key(caller_of(interaction))
        if not await personas.assign(
            key, slot.level, entry.persona_id, place_id=slot.place_id, actor_id=interaction.user.id
        ):
            raise PersonaGone()
        persona = await personas.get(key, slot.level, slot.place_id)
        size = None if persona is None else await personas.limits.size(key, persona.prompt)
        await self._done(interaction, slot, shown_name(entry.name), size, choice)

    async def _done(
        self, interaction: Interaction, slot: Slot, name: str, size: PersonaSize | None, choice: DialogChoice
    ) -> None:
        """Tell the caller, end conversations if they wish it or ask whether they do, and tell the channel."""
        caller = caller_of(interaction)
        begun = await self.conversations.begin_afresh(interaction, slot) if choice == "afresh" else None
        after = _(KEPT) if begun is None else begun.text
        lines = [f"{now_text(name, slot.level, slot.place_id)} {after}", size_text(size)]
        current = await self._context.personas.get(dialog_key(caller), slot.level, slot.place_id)
        if current is not None and current.age_restricted:
            lines.append(restricted_note(here=caller.age_restricted))
        if slot.own:
            lines.append((await self._barred(interaction, caller)).strip())
        else:
            lines.append(await self._narrower(caller, slot))
            lines.append(await self._elsewhere(caller, slot))
        await self.conversations.respond(interaction, slot, "\n".join(filter(None, lines)), choice)
        if not slot.own:
            afresh = begun is not None and begun.whole_place
            await announce(self._context, interaction, public_text(name, slot.level, slot.place_id, afresh=afresh))

    async def _barred(self, interaction: Interaction, caller: Caller) -> str:
        """That the member's own persona does not answer here, and why; "" if it does."""
        settings = await self._context.guild_settings.get(caller.guild_id)
        barrier = own_persona_barrier(caller, settings)
        if barrier is not None:
            return "\n" + _("-# It does not answer here: {why}.").format(why=_(BARRED[barrier]))
        if not (await self._context.current_dialog_key(interaction)).shared:
            return ""
        return "\n" + _("-# In a conversation that everyone shares, as here, it does not answer.")

    async def _elsewhere(self, caller: Caller, slot: Slot) -> str:
        """Where else this persona answers: another text of it holds there as well."""
        key, personas = dialog_key(caller), self._context.personas
        persona = await personas.get(key, slot.level, slot.place_id)
        places = () if persona is None else await personas.library.places(key, persona.persona_id, own=False)
        others = [each for each in places if (each.level, each.place_id) != (slot.level, slot.place_id)]
        return _("-# It also answers {places}.").format(places=places_text(others)) if others else ""

    async def _narrower(self, caller: Caller, slot: Slot) -> str:
        """That another persona goes on answering here, because it is set for a narrower place."""
        first = await narrowest_place(self._context, caller)
        if first is None or (first.level, first.place_id) == (slot.level, slot.place_id):
            return ""
        return _(_NARROWER[first.level]).format(name=name_of(shown_name(first.name)))
