"""Which stored answer a message of the bot shows: for the menus of messages. And a member's last answer in a place."""

from __future__ import annotations

import discord

from bot.chat.history import HistoryReader
from bot.cogs.dialogs.answers import number
from bot.cogs.dialogs.whose import dialogs_here
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.permissions.actions import Action
from bot.discord_app.replies.webhooks.own_messages import is_own_message
from models.types import TurnInfo


def is_answer_of_mine(interaction: Interaction, message: discord.Message) -> bool:
    """Whether the bot wrote this message, or a persona of it through a webhook."""
    client_id = interaction.client.user.id if interaction.client.user else 0
    own_id = interaction.application_id
    return message.author.id == own_id or is_own_message(message, bot_id=client_id, application_id=own_id)


async def turn_shown_by(context: CommandContext, message: discord.Message) -> TurnInfo | None:
    """The turn whose answer a message shows; None if it is gone. Whose it is is checked by the caller."""
    turn = await context.chat.turns.turn_of_message(message.id)
    if turn is None:  # a moment after its last edit the message may not be recorded yet
        turn = await context.chat.turns.turn(_turn_in_buttons(message))
    return turn


async def last_answer_here(context: CommandContext, interaction: Interaction, reader: HistoryReader) -> int:
    """The turn of the member's last answer here, in public or in private; 0 if there is none."""
    last = 0
    for key in (await dialogs_here(context, interaction)).keys:
        stretch = await reader.stretch(key)
        last = max([last, *(each.turn_id for each in (stretch.exchanges if stretch else ()) if each.own)])
    return last


def _turn_in_buttons(message: discord.Message) -> int:
    """The turn that the buttons of a reply name; 0 if there are none. Whose it is is checked as it is stored."""
    for row in message.components:
        for each in row.children if isinstance(row, discord.ActionRow) else ():
            word, _, rest = (each.custom_id or "").partition(":")
            if word == Action.REGENERATE.value:
                return number(rest)
    return 0
