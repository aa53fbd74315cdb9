"""What an answer was made of: the menu of a message, and `/history why` for the last one.

Only the member who asked may see it. What the prompt of a turn was made of is recorded with its reply; notes that were
forgotten since are not shown.
"""

from __future__ import annotations

import discord
from discord import app_commands
from discord.ext import commands

from bot.chat.history import HistoryReader
from bot.cogs.answer_of_message import is_answer_of_mine, last_answer_here, turn_shown_by
from bot.cogs.dialogs.answers import answer, begin
from bot.cogs.memory.text import why_text
from bot.discord_app.caller import caller_of
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer
from bot.discord_app.feature_cog import FeatureCog
from bot.discord_app.permissions.actions import WHY_MENU
from bot.discord_app.permissions.authorise import authorise_author
from bot.discord_app.replies.turn_actions import TurnIsGone
from bot.discord_app.rest.message_api import MessageApi
from bot.discord_app.splitting.code_fences import utf16_length
from bot.errors import BotError
from bot.i18n.language import N_
from bot.i18n.language import gettext as _
from bot.memory.service import MemoryService
from models.types import TurnInfo

_NOT_MINE = N_("This is no answer of mine. Please choose **Why this answer?** in the menu of one.")
_NOT_RECORDED = N_("I have not noted down what this answer was made of: it is too old.")
_NOTHING_YET = N_("I have not answered you in this conversation yet.")
_MAX_CHARS = 1_990
"""UTF-16 units of an answer; Discord takes 2,000."""


class WhyThisAnswer:
    """Looks up what an answer was made of."""

    def __init__(self, context: CommandContext, api: MessageApi, memory: MemoryService, reader: HistoryReader) -> None:
        self._context = context
        self._api = api
        self._memory = memory
        self._reader = reader

    async def of_last(self, interaction: Interaction) -> None:
        """/history why: of the member's last answer here, in public or in private."""
        if not await begin(interaction):
            return
        last = await last_answer_here(self._context, interaction, self._reader)
        if not last:
            raise BotError(_(_NOTHING_YET))
        await self._show(interaction, await self._context.chat.turns.turn(last))

    async def of_message(self, interaction: Interaction, message: discord.Message) -> None:
        """The menu of a message."""
        if await defer(interaction, ephemeral=True):
            if not is_answer_of_mine(interaction, message):
                raise BotError(_(_NOT_MINE))
            await self._show(interaction, await turn_shown_by(self._context, message))

    async def _show(self, interaction: Interaction, turn: TurnInfo | None) -> None:
        if turn is None:
            raise TurnIsGone()
        authorise_author(caller_of(interaction), turn)
        used = await self._memory.why(turn.key, turn.turn_id)
        await answer(self._api, interaction, _(_NOT_RECORDED) if used is None else _within_a_message(why_text(used)))


class Why(FeatureCog):
    """The menu "Why this answer?"."""

    def __init__(self, bot: commands.Bot, context: CommandContext, why: WhyThisAnswer) -> None:
        super().__init__(context)
        self._bot = bot
        self._menu = app_commands.ContextMenu(name=WHY_MENU, callback=self._chosen)
        self._why = why

    async def cog_load(self) -> None:
        """Register the menu: discord.py does so by itself for slash commands only."""
        self._bot.tree.add_command(self._menu)

    async def cog_unload(self) -> None:
        """Take the menu back."""
        self._bot.tree.remove_command(self._menu.name, type=self._menu.type)

    async def _chosen(self, interaction: Interaction, message: discord.Message) -> None:
        await self._why.of_message(interaction, message)


def _within_a_message(text: str) -> str:
    """The lines that fit into one message."""
    lines = text.split("\n")
    while utf16_length("\n".join(lines)) > _MAX_CHARS:
        lines = [*lines[:-2], "> …"]
    return "\n".join(lines)
