"""/reset and /history: a member's own conversation ends, comes back, is shown or partly forgotten.

A reply that is being written meanwhile is still shown.
"""

from __future__ import annotations

from discord import app_commands

from bot.chat.service import UNDO_WITHIN
from bot.discord_app.context import ANYWHERE, INSTALLED, CommandContext, Interaction, answer, conversation
from bot.discord_app.delivery import acknowledge

_MINUTES = round(UNDO_WITHIN.total_seconds() / 60)
_UNDONE = "Our conversation goes on where it was before the reset."
_NOT_UNDONE = f"There is no reset of the last {_MINUTES} minutes to take back here, or we have talked since."


def reset_command(parts: CommandContext) -> app_commands.Command[app_commands.Group, ..., None]:
    @app_commands.command(name="reset", description="Start a new conversation. I forget what we said; personas stay.")
    async def reset(interaction: Interaction) -> None:
        if not await acknowledge(interaction, private=True):
            return
        pairs = await parts.chat.reset(await conversation(parts, interaction))
        await answer(parts, interaction, _said(pairs))

    reset.allowed_contexts = ANYWHERE
    reset.allowed_installs = INSTALLED
    return reset


class HistoryCommands(app_commands.Group):
    def __init__(self, parts: CommandContext) -> None:
        super().__init__(name="history", description="What we said to each other here")
        self._parts = parts
        self.allowed_contexts = ANYWHERE
        self.allowed_installs = INSTALLED

    @app_commands.command(name="show", description="Show the last of our conversation, to you alone.")
    @app_commands.describe(count="How many exchanges (default: as many as I keep in mind)")
    async def show(self, interaction: Interaction, count: app_commands.Range[int, 1, 100] | None = None) -> None:
        if not await acknowledge(interaction, private=True):
            return
        key = await conversation(self._parts, interaction)
        pairs = await self._parts.chat.history(key, count or self._parts.settings.max_chat_logs)
        text = "\n\n".join(f"**You:** {pair.user}\n**Me:** {pair.reply}" for pair in pairs)
        await answer(self._parts, interaction, text or "Our conversation has not begun yet.")

    @app_commands.command(name="forget", description="Forget the last of our conversation, for good.")
    @app_commands.describe(count="How many exchanges (default: 1)")
    async def forget(self, interaction: Interaction, count: app_commands.Range[int, 1, 100] = 1) -> None:
        if not await acknowledge(interaction, private=True):
            return
        gone = await self._parts.chat.forget(await conversation(self._parts, interaction), count)
        said = f"I have forgotten {_last(gone)}." if gone else "There was nothing to forget."
        await answer(self._parts, interaction, said)

    @app_commands.command(name="undo", description="Take back your /reset, if we have not talked since.")
    async def undo(self, interaction: Interaction) -> None:
        if not await acknowledge(interaction, private=True):
            return
        back = await self._parts.chat.undo_reset(await conversation(self._parts, interaction))
        await answer(self._parts, interaction, _UNDONE if back else _NOT_UNDONE)


def _said(pairs: int) -> str:
    if pairs == 0:
        return "We start a new conversation. There was nothing to forget; personas stay as they are."
    return (
        f"We start a new conversation: I no longer think of {_last(pairs)}. Personas stay as they are. "
        f"`/history undo` brings it back within {_MINUTES} minutes."
    )


def _last(pairs: int) -> str:
    return "our last exchange" if pairs == 1 else f"our last {pairs} exchanges"
