"""/reset: begin anew, here or everywhere, and take that back within some minutes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from discord import app_commands

from bot.chat.dialog_changes import UNDO_WITHIN, Reset
from bot.cogs.dialogs.answers import OldButton, answer, begin, number
from bot.cogs.dialogs.buttons import button, moment_id, moment_of, row
from bot.cogs.dialogs.whose import changeable, dialogs_here
from bot.discord_app.caller import caller_of
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.permissions.actions import Action
from bot.discord_app.permissions.authorise import authorise_shared
from bot.discord_app.rest.message_api import MessageApi
from bot.i18n.language import N_, ngettext
from bot.i18n.language import gettext as _
from models.types import UndoneReset

MINUTES = round(UNDO_WITHIN.total_seconds() / 60)
NOT_UNDONE = N_("There is no reset of the last {minutes} minutes to take back here.")


class ResetCommand(FeatureCog):
    """/reset and the Undo button under its answer."""

    def __init__(self, context: CommandContext, api: MessageApi) -> None:
        super().__init__(context)
        self._api = api

    @app_commands.command(
        name="reset", description="Start a new conversation. I forget what we said; personas and notes about you stay."
    )
    @app_commands.describe(
        scope="here: our conversation here (default). everywhere: all your own, in every server and in DMs"
    )
    async def reset(self, interaction: Interaction, scope: Literal["here", "everywhere"] = "here") -> None:
        """/reset."""
        if not await begin(interaction):
            return
        if scope == "everywhere":
            reset = await self.context.chat.dialogs.reset_everywhere(interaction.user.id)
            text = _everywhere_text(reset)
        else:
            reset, text = await self._reset_here(interaction)
        undo = row(button(_("Undo"), f"{Action.RESET.value}:undo:{moment_id(reset.at)}")) if reset.pairs else ()
        await answer(self._api, interaction, text, undo)

    async def _reset_here(self, interaction: Interaction) -> tuple[Reset, str]:
        """End what the member may end here: a shared conversation if they manage the guild, and their own."""
        here, caller = await dialogs_here(self.context, interaction), caller_of(interaction)
        ended = changeable(caller, here)
        reset = await self.context.chat.dialogs.reset(*ended.keys)
        if not here.several:
            return reset, _here_text(reset)
        if not caller.manages_guild:
            if reset.pairs == 0:
                authorise_shared(caller, here.first, "reset")
            return reset, _private_text(reset)
        return reset, _here_text(reset, reset.pairs_of[0], reset.pairs_of[1])

    def component_handlers(self) -> Mapping[str, ComponentHandler]:
        """The Undo button."""
        return {Action.RESET.value: self._undo}

    async def _undo(self, interaction: Interaction, argument: str) -> None:
        """`argument`: "undo:" and when the reset was."""
        word, _, moment = argument.partition(":")
        if word != "undo":
            raise OldButton()
        try:
            reset_at = moment_of(number(moment))
        except OverflowError:
            raise OldButton() from None
        if await begin(interaction):
            here = changeable(caller_of(interaction), await dialogs_here(self.context, interaction))
            undone = await self.context.chat.dialogs.undo_reset(here.first, reset_at, also=here.also)
            await answer(self._api, interaction, undone_text(undone))


def exchanges(pairs: int) -> str:
    """A number of exchanges, in words."""
    return ngettext("our last exchange", "our last {number} exchanges", pairs).format(number=pairs)


def undone_text(undone: UndoneReset | None) -> str:
    """What became of an undo."""
    if undone is None:
        return _(NOT_UNDONE).format(minutes=MINUTES)
    text = ngettext(
        "Our conversation goes on where it was before the reset.",
        "Our conversations go on where they were before the reset.",
        undone.dialogs,
    )
    if undone.kept_since:
        text += " " + _("What we said since is kept: `/conversation list` shows it.")
    return text


def _brings_back() -> str:
    text = _("`/history undo` or the button brings it back within {minutes} minutes.")
    return text.format(minutes=MINUTES)


def _here_text(reset: Reset, shared: int = 0, private: int = 0) -> str:
    """`shared`, `private`: the pairs of what everyone shares here, and of the member's own conversation beside it."""
    if reset.pairs == 0:
        return _("We start a new conversation. There was nothing to forget; personas stay as they are.")
    if private and shared:
        text = _(
            "We start a new conversation: I no longer think of {shared} that everyone here shares, and of {private} in "
            "our private conversation here. Personas stay as they are."
        )
        text = text.format(shared=exchanges(shared), private=exchanges(private))
    elif private:
        text = _(
            "We start a new conversation: I no longer think of {exchanges} in our private conversation here. Personas "
            "stay as they are."
        ).format(exchanges=exchanges(private))
    else:
        text = _("We start a new conversation: I no longer think of {exchanges}. Personas stay as they are.")
        text = text.format(exchanges=exchanges(reset.pairs))
    return f"{text} {_brings_back()}"


def _private_text(reset: Reset) -> str:
    text = _(
        "We start a new private conversation here: I no longer think of {exchanges} in it. What everyone here shares "
        "stays: only members with the Manage Server permission can reset that."
    ).format(exchanges=exchanges(reset.pairs))
    return f"{text} {_brings_back()}"


def _everywhere_text(reset: Reset) -> str:
    if reset.pairs == 0:
        return _("We start anew everywhere. There was nothing to forget; personas stay as they are.")
    text = ngettext(
        "We start anew everywhere: I no longer think of {exchanges} in {number} conversation of your own, in every "
        "server and in direct messages, those with a name included. What a whole channel shares stays, and so do "
        "personas. `/history undo` or the button brings them back within {minutes} minutes.",
        "We start anew everywhere: I no longer think of {exchanges} in {number} conversations of your own, in every "
        "server and in direct messages, those with a name included. What a whole channel shares stays, and so do "
        "personas. `/history undo` or the button brings them back within {minutes} minutes.",
        reset.dialogs,
    )
    return text.format(exchanges=exchanges(reset.pairs), number=reset.dialogs, minutes=MINUTES)
