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
from bot.discord_app.permissions import Action, authorise_shared
from bot.discord_app.rest.message_api import MessageApi
from models.types import UndoneReset

MINUTES = round(UNDO_WITHIN.total_seconds() / 60)
NOT_UNDONE = f"There is no reset of the last {MINUTES} minutes to take back here."


class ResetCommand(FeatureCog):
    """/reset and the Undo button under its answer."""

    def __init__(self, context: CommandContext, api: MessageApi) -> None:
        super().__init__(context)
        self._api = api

    @app_commands.command(name="reset", description="Start a new conversation. I forget what we said; personas stay.")
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
        undo = row(button("Undo", f"{Action.RESET.value}:undo:{moment_id(reset.at)}")) if reset.pairs else ()
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
    return "our last exchange" if pairs == 1 else f"our last {pairs} exchanges"


def undone_text(undone: UndoneReset | None) -> str:
    """What became of an undo."""
    if undone is None:
        return NOT_UNDONE
    one = undone.dialogs == 1
    text = f"Our conversation{' goes' if one else 's go'} on where {'it was' if one else 'they were'} before the reset."
    kept = " What we said since is kept: `/conversation list` shows it." if undone.kept_since else ""
    return text + kept


_BRINGS_BACK = f"`/history undo` or the button brings it back within {MINUTES} minutes."


def _here_text(reset: Reset, shared: int = 0, private: int = 0) -> str:
    """`shared`, `private`: the pairs of what everyone shares here, and of the member's own conversation beside it."""
    if reset.pairs == 0:
        return "We start a new conversation. There was nothing to forget; personas stay as they are."
    forgotten = exchanges(reset.pairs)
    if private:
        forgotten = f"{exchanges(private)} in our private conversation here"
        forgotten = f"{exchanges(shared)} that everyone here shares, and of {forgotten}" if shared else forgotten
    return f"We start a new conversation: I no longer think of {forgotten}. Personas stay as they are. {_BRINGS_BACK}"


def _private_text(reset: Reset) -> str:
    return (
        f"We start a new private conversation here: I no longer think of {exchanges(reset.pairs)} in it. "
        "What everyone here shares stays: only members with the Manage Server permission can reset that. "
        f"{_BRINGS_BACK}"
    )


def _everywhere_text(reset: Reset) -> str:
    if reset.pairs == 0:
        return "We start anew everywhere. There was nothing to forget; personas stay as they are."
    conversations = "1 conversation" if reset.dialogs == 1 else f"{reset.dialogs} conversations"
    return (
        f"We start anew everywhere: I no longer think of {exchanges(reset.pairs)} in {conversations} of your own, in "
        "every server and in direct messages, those with a name included. What a whole channel shares stays, and so do "
        f"personas. `/history undo` or the button brings them back within {MINUTES} minutes."
    )
