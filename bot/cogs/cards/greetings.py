"""`/persona greeting` and `/me persona greeting`: which greeting of its card a character begins conversations with.

The menus carry the persona's id; it is looked for in the library of who chooses, and the press is authorised like the
command.
"""

from __future__ import annotations

from bot.characters.card import CharacterCard
from bot.characters.macros import Macros
from bot.chat.prompts.speakers import clean_name
from bot.cogs.cards.text import greeting_rows, greeting_text
from bot.cogs.dialogs.answers import answer, begin, chosen_number, number
from bot.discord_app.caller import caller_of, dialog_key
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.permissions.actions import Action
from bot.discord_app.rest.message_api import MessageApi
from bot.errors import Hint
from bot.guilds.persona_cards import NO_GREETINGS
from bot.i18n.language import gettext as _
from models.types import PersonaInfo

CHOOSE = "choose"
"""The second word of the custom ids."""


class GreetingChoice:
    """Shows the greetings of a character, and stores which one is chosen."""

    def __init__(self, context: CommandContext, api: MessageApi) -> None:
        self._personas = context.personas
        self._api = api

    async def show(self, interaction: Interaction, name: str, *, own: bool) -> None:
        """Show the greeting of an entry, and the others to choose from. Raises UnknownPersona or Hint."""
        if not await begin(interaction):
            return
        key = dialog_key(caller_of(interaction))
        entry = await self._personas.library.named(key, name, own=own)
        card = await self._personas.cards.greetings(key, entry, own=own)
        if card is None or not any(text.strip() for text in card.greetings):
            raise Hint(_(NO_GREETINGS))
        await self._answer(interaction, entry, card, own=own, stored=False)

    async def chosen(self, interaction: Interaction, argument: str, *, own: bool) -> None:
        """`argument`: the entry, and the number of the menu."""
        persona_id, greeting = number(argument.partition(":")[0]), chosen_number(interaction)
        if await begin(interaction):
            key, by = dialog_key(caller_of(interaction)), interaction.user.id
            entry = await self._personas.library.get(key, persona_id, own=own)
            card = await self._personas.cards.choose_greeting(key, entry, greeting, own=own, actor_id=by)
            await self._answer(interaction, entry, card, own=own, stored=True)

    async def _answer(
        self, interaction: Interaction, entry: PersonaInfo, card: CharacterCard, *, own: bool, stored: bool
    ) -> None:
        macros = Macros(card.char, clean_name(caller_of(interaction).name))
        word = Action.CARD.value if own else Action.GUILD_CARD.value
        rows = greeting_rows(card.greetings, card.greeting, macros, f"{word}:{CHOOSE}:{entry.persona_id}")
        text = greeting_text(entry.name, card.chosen_greeting, macros, stored=stored)
        await answer(self._api, interaction, text, rows)
