"""/report and the menu "Report this answer": any member tells the admins of their guild about an answer.

The form has the id of the turn; whether the member can see that answer is checked when it is opened and again when it
is sent, since a custom id can be forged. The admins' side is in `bot.cogs.admin.reports`.
"""

from __future__ import annotations

from collections.abc import Mapping

import discord
import structlog
from discord import app_commands
from discord.ext import commands
from discord.ui import Label, Modal, TextDisplay, TextInput

from bot.chat.history import HistoryReader
from bot.chat.reports import MAX_A_DAY, MAX_REASON, Reports
from bot.cogs.answer_of_message import is_answer_of_mine, last_answer_here, turn_shown_by
from bot.cogs.dialogs.answers import in_time, number
from bot.discord_app.caller import Caller, caller_of, dialog_key
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import DISCORD_ERRORS, defer, describe_error
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.modal_values import submitted_values
from bot.discord_app.permissions.actions import REPORT_MENU, Action
from bot.discord_app.permissions.authorise import NotAllowed
from bot.discord_app.permissions.command_visibility import BY_GUILDS, IN_GUILDS
from bot.discord_app.registration.command_texts import COMMAND
from bot.discord_app.rest.forbidden_channels import ChannelForbidden
from bot.discord_app.rest.message_api import MessageApi
from bot.errors import BotError, Hint
from bot.i18n.language import gettext as _
from bot.i18n.language import pgettext, use_language
from bot.text import clean_text
from models.types import ReportOutcome, TurnInfo

log = structlog.get_logger(__name__)

_REASON = "reason"


class ReportCommand(FeatureCog):
    """The command, the menu and the form."""

    def __init__(
        self, bot: commands.Bot, context: CommandContext, api: MessageApi, reports: Reports, reader: HistoryReader
    ) -> None:
        super().__init__(context)
        self._bot = bot
        self._api = api
        self._reports = reports
        self._reader = reader
        self._menu = app_commands.ContextMenu(
            name=REPORT_MENU,
            callback=self._chosen,
            allowed_contexts=IN_GUILDS,
            allowed_installs=BY_GUILDS,
        )

    async def cog_load(self) -> None:
        """Register the menu: discord.py does so by itself for slash commands only."""
        self._bot.tree.add_command(self._menu)

    async def cog_unload(self) -> None:
        """Take the menu back."""
        self._bot.tree.remove_command(self._menu.name, type=self._menu.type)

    @app_commands.command(
        name="report", description="Tell this guild's admins about my last answer to you. For others use its menu."
    )
    @app_commands.allowed_contexts(guilds=True, dms=False, private_channels=False)
    @app_commands.allowed_installs(guilds=True, users=False)
    async def report(self, interaction: Interaction) -> None:
        """/report: the member's last answer here."""
        async with in_time():
            turn_id = await last_answer_here(self.context, interaction, self._reader)
            turn = await self.context.chat.turns.turn(turn_id) if turn_id else None
            if turn is None:
                raise Hint(
                    _("I have not answered you here yet. To report another answer, choose {menu} in its menu.").format(
                        menu=f"**{pgettext(COMMAND, REPORT_MENU)}**"
                    )
                )
            await self._check(caller_of(interaction), turn)
        await interaction.response.send_modal(self._form(turn))

    async def _chosen(self, interaction: Interaction, message: discord.Message) -> None:
        if not is_answer_of_mine(interaction, message):
            raise Hint(_("This is no answer of mine: only those can be reported here."))
        async with in_time():
            turn = await turn_shown_by(self.context, message)
            if turn is None:
                raise _not_stored()
            await self._check(caller_of(interaction), turn)
        await interaction.response.send_modal(self._form(turn))

    def component_handlers(self) -> Mapping[str, ComponentHandler]:
        """The form."""
        return {Action.REPORT.value: self._sent}

    async def _sent(self, interaction: Interaction, argument: str) -> None:
        """`argument`: the turn. Store the report, and say in the admins' channel that there is one."""
        turn_id = number(argument)
        if interaction.type is not discord.InteractionType.modal_submit:
            raise _not_stored()
        reason = clean_text((submitted_values(interaction.data).get(_REASON) or ("",))[0])[:MAX_REASON]
        if not await defer(interaction, ephemeral=True):
            return
        if not reason:
            raise Hint(_("Please say what is wrong with the answer."))
        caller = caller_of(interaction)
        turn = await self.context.chat.turns.turn(turn_id)
        if turn is None:
            raise _not_stored()
        await self._check(caller, turn)
        outcome = await self._reports.add(dialog_key(caller), turn, caller.channel_id, reason)
        await self.context.respond(interaction, _outcome_text(outcome))
        if outcome == "stored":
            await self._tell_admins(interaction)

    async def _check(self, caller: Caller, turn: TurnInfo) -> None:
        """Raise unless this member can see this answer where they are."""
        if turn.key.guild_id != caller.guild_id:
            raise NotAllowed(_("This answer belongs to another place."))
        if turn.status != "done" or turn.reply is None:
            raise _not_stored()
        if caller.user_id == turn.author_id:
            return
        shown = await self.context.chat.turns.delivery(turn)
        if shown is None or shown.place.ephemeral or shown.place.channel_id != caller.channel_id:
            raise NotAllowed(_("This answer belongs to another place."))

    async def _tell_admins(self, interaction: Interaction) -> None:
        """Say in their channel that something was reported, never what. Nothing depends on it."""
        try:
            channel_id = await self._reports.channel(dialog_key(caller_of(interaction)))
            if channel_id is None:
                return
            with use_language(await self.context.languages.of_guild(interaction.guild_id or 0)):
                text = _("A member has reported an answer of mine. Admins read it with `/admin reports`.")
            await self._api.send(channel_id, text, nonce=f"{interaction.id}.r")
        except ChannelForbidden:
            log.info("a report was not announced", reason="the bot may not write there")
        except DISCORD_ERRORS as error:
            log.warning("a report was not announced", error=describe_error(error))
        except BotError as error:
            log.warning("a report was not announced", reason=error.reason)

    def _form(self, turn: TurnInfo) -> Modal:
        modal = Modal(title=_("Report an answer"), custom_id=f"{Action.REPORT.value}:{turn.turn_id}", timeout=None)
        reason: TextInput[Modal] = TextInput(
            custom_id=_REASON, style=discord.TextStyle.paragraph, max_length=MAX_REASON
        )
        modal.add_item(
            Label(
                text=_("What is wrong with it?"), description=_("The admins of this guild read it."), component=reason
            )
        )
        kept = _(
            "The admins also get a copy of the message, the answer and what I had before me when I wrote it. It is "
            "kept for {days} days, also if the conversation is deleted before. It goes at once if the person who asked "
            "has their data deleted. What others may not see of that person is left out."
        )
        modal.add_item(TextDisplay(kept.format(days=self.context.settings.report_retention_days)))
        modal.stop()  # discord.py need not remember it: the bot serves modals by their custom ids
        return modal


def _not_stored() -> BotError:
    return Hint(
        _(
            "I have not stored this answer, or not any more, so I cannot pass it on. Please tell the admins of this "
            "guild about it yourself."
        )
    )


def _outcome_text(outcome: ReportOutcome) -> str:
    if outcome == "stored":
        return _("Thank you. The admins of this guild can read your report now.")
    if outcome == "again":
        return _("You have reported this answer already.")
    if outcome == "too many":
        return _(
            "You have reported {number} answers within a day, which is all that I take. Please try again later."
        ).format(number=MAX_A_DAY)
    if outcome == "opted out":
        return _(
            "You have opted out: I store nothing that you write, so I cannot take a report. Please tell the admins of "
            "this guild yourself, or use `/privacy optin` first."
        )
    return _not_stored().user_message
