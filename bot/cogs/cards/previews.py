"""The preview of a card, and its buttons: import into a library, another greeting, or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace as changed

import structlog

from bot.attachments.types import OfferedFile
from bot.characters.files.json_card import write
from bot.characters.files.reading import ImportedCard
from bot.characters.preview import preview
from bot.chat.prompts.speakers import clean_name
from bot.cogs.cards.pending import PendingCard, PendingCards
from bot.cogs.cards.reading import CardReader
from bot.cogs.cards.text import CANCELLED, TOO_LATE, imported_text, preview_components, preview_text
from bot.cogs.dialogs.answers import OldButton, answer, begin, chosen_number, number
from bot.cogs.personas.announcing import announce_edit
from bot.discord_app.caller import caller_of, dialog_key
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.rest.message_api import MessageApi
from bot.errors import BotError, DatabaseUnavailable
from bot.i18n.language import gettext as _

log = structlog.get_logger(__name__)


class CardPreviews:
    """The previews that members look at. Who may import into which library is checked before."""

    def __init__(self, context: CommandContext, api: MessageApi) -> None:
        self.context = context
        self._api = api
        self._pending = PendingCards()
        self._reader = CardReader(context.chat.file_reader)

    async def show(
        self,
        interaction: Interaction,
        offers: Sequence[OfferedFile],
        *,
        own: bool,
        guild: bool,
        name: str = "",
        replace: bool = False,
    ) -> None:
        """Read the first card among these files, and show what would become of it. Raises BotError.

        `own`, `guild`: the libraries that it may go to.
        """
        key = dialog_key(caller_of(interaction))
        imported = await self._reader.read(offers)
        cards = self.context.personas.cards
        if own != guild:  # with two libraries to choose from, the name is checked in the one that is chosen
            await cards.free_name(key, imported.card, own=own, name=name, replace=replace)
        picture = await self._reader.portrait(imported)
        size, refusal = None, None
        try:
            size = await cards.size(key, imported.card)
        except BotError as too_long:
            refusal = too_long
        shown = await asyncio.to_thread(preview, imported, has_picture=bool(picture))
        text = preview_text(imported, shown, size, refusal)
        pending = PendingCard(
            guild_id=key.guild_id,
            json=write(dict(imported.card.raw)),
            char=imported.card.char,
            greetings=imported.card.greetings,
            picture=picture,
            user=clean_name(caller_of(interaction).name),
            name=name,
            replace=replace,
            text=text,
            greeting=_first_greeting(imported),
            own=own,
            guild=guild,
        )
        if refusal is None:
            self._pending.keep(interaction.user.id, interaction.id, pending)
        await answer(self._api, interaction, text, preview_components(pending, interaction.id, fits=refusal is None))

    async def pressed(self, interaction: Interaction, argument: str, *, own: bool) -> None:
        """`argument`: what to do, the number of the card, and that of the menu in which a greeting was chosen."""
        word, _colon, card_number = argument.partition(":")
        if word not in {"import", "cancel", "greeting"}:
            raise OldButton()
        user_id, key, card_id = (
            interaction.user.id,
            dialog_key(caller_of(interaction)),
            number(card_number.partition(":")[0]),
        )
        if not await begin(interaction):
            return
        pending = self._pending.find(user_id, card_id, key.guild_id)
        if word == "cancel":
            self._pending.forget(user_id, card_id)
            await answer(self._api, interaction, _(CANCELLED))
        elif pending is None or (word == "import" and not (pending.own if own else pending.guild)):
            await answer(self._api, interaction, _(TOO_LATE))
        elif word == "greeting":
            pending = changed(pending, greeting=_chosen(interaction, pending))
            self._pending.keep(user_id, card_id, pending)
            await answer(self._api, interaction, pending.text, preview_components(pending, card_id, fits=True))
        else:
            await self._store(interaction, card_id, pending, own=own)

    async def _store(self, interaction: Interaction, card_id: int, pending: PendingCard, *, own: bool) -> None:
        key, cards, user_id = dialog_key(caller_of(interaction)), self.context.personas.cards, interaction.user.id
        self._pending.forget(user_id, card_id)  # a second press of the button finds nothing to import
        try:
            card = await asyncio.to_thread(pending.card)
            name = await cards.free_name(key, card, own=own, name=pending.name, replace=pending.replace)
            stored = await cards.store(
                key,
                card,
                own=own,
                name=name,
                picture=pending.picture,
                greeting=pending.greeting,
                replace=pending.replace,
                actor_id=user_id,
            )
        except BotError as refusal:  # the card stays: a name may become free, and the database come back
            self._pending.keep(user_id, card_id, pending)
            why = _("**Not imported:** {why}").format(why=refusal.user_message)
            text = f"{pending.text}\n\n{why}"
            await answer(self._api, interaction, text, preview_components(pending, card_id, fits=True))
            if isinstance(refusal, DatabaseUnavailable):
                log.warning("a card was not stored", error_id=refusal.error_id, reason=refusal.reason)
            return
        await answer(self._api, interaction, imported_text(stored.name, own=own))
        if not own and stored.active_version > 1:
            await announce_edit(self.context, interaction, stored)


def _first_greeting(imported: ImportedCard) -> int:
    """The greeting that the card chooses, else the first that says something."""
    card = imported.card
    if card.chosen_greeting:
        return card.greeting
    return next((index for index, text in enumerate(card.greetings) if text), 0)


def _chosen(interaction: Interaction, pending: PendingCard) -> int:
    index = chosen_number(interaction)
    if index >= len(pending.greetings):
        raise OldButton()
    return index
