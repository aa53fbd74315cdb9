"""/reset: begin anew, here or everywhere, and take that back within some minutes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from discord import app_commands

from bot.chat.service import UNDO_WITHIN, Reset
from bot.cogs.dialogs.answers import OldButton, answer, begin, number, own_key
from bot.cogs.dialogs.buttons import button, moment_id, moment_of, row
from bot.discord_app.caller import caller_of
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.message_api import MessageApi
from bot.discord_app.permissions import Action, authorise_shared
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
            reset = await self.context.chat.reset_everywhere(interaction.user.id)
            text = _everywhere_text(reset)
        else:
            key = await self.context.current_dialog_key(interaction)
            authorise_shared(caller_of(interaction), key, "reset")
            reset = await self.context.chat.reset(key)
            text = _here_text(reset)
        undo = row(button("Undo", f"{Action.RESET.value}:undo:{moment_id(reset.at)}")) if reset.pairs else ()
        await answer(self._api, interaction, text, undo)

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
            key = own_key(interaction, await self.context.current_dialog_key(interaction))
            undone = await self.context.chat.undo_reset(key, reset_at)
            await answer(self._api, interaction, undone_text(undone))


def exchanges(pairs: int) -> str:
    """So many exchanges, in words."""
    return "our last exchange" if pairs == 1 else f"our last {pairs} exchanges"


def undone_text(undone: UndoneReset | None) -> str:
    """What became of an undo."""
    if undone is None:
        return NOT_UNDONE
    one = undone.dialogs == 1
    text = f"Our conversation{' goes' if one else 's go'} on where {'it was' if one else 'they were'} before the reset."
    kept = " What we said since is kept: `/conversation list` shows it." if undone.kept_since else ""
    return text + kept


def _here_text(reset: Reset) -> str:
    if reset.pairs == 0:
        return "We start a new conversation. There was nothing to forget; personas stay as they are."
    return (
        f"We start a new conversation: I no longer think of {exchanges(reset.pairs)}. Personas stay as they are. "
        f"`/history undo` or the button brings it back within {MINUTES} minutes."
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
