"""/reset and /history: end, restore, show or partly forget a member's own dialog.

A reply that is being written meanwhile is still shown.
"""

from __future__ import annotations

from discord import app_commands

from bot.chat.service import UNDO_WITHIN
from bot.discord_app.context import Interaction
from bot.discord_app.delivery import defer
from bot.discord_app.feature_cog import FeatureCog

_MINUTES = round(UNDO_WITHIN.total_seconds() / 60)
_UNDONE = "Our conversation goes on where it was before the reset."
_NOT_UNDONE = f"There is no reset of the last {_MINUTES} minutes to take back here, or we have talked since."


class History(FeatureCog):
    """The commands for a member's own dialog."""

    @app_commands.command(name="reset", description="Start a new conversation. I forget what we said; personas stay.")
    async def reset(self, interaction: Interaction) -> None:
        """/reset."""
        if not await defer(interaction, ephemeral=True):
            return
        pairs = await self.context.chat.reset(await self.context.current_dialog_key(interaction))
        await self.context.respond(interaction, _reset_text(pairs))

    history = app_commands.Group(name="history", description="What we said to each other here")

    @history.command(name="show", description="Show the last of our conversation, to you alone.")
    @app_commands.describe(count="How many exchanges (default: as many as I keep in mind)")
    async def show(self, interaction: Interaction, count: app_commands.Range[int, 1, 100] | None = None) -> None:
        """/history show."""
        if not await defer(interaction, ephemeral=True):
            return
        key = await self.context.current_dialog_key(interaction)
        pairs = await self.context.chat.history(key, count or self.context.settings.max_chat_logs)
        text = "\n\n".join(f"**You:** {pair.user}\n**Me:** {pair.reply}" for pair in pairs)
        await self.context.respond(interaction, text or "Our conversation has not begun yet.")

    @history.command(name="forget", description="Forget the last of our conversation, for good.")
    @app_commands.describe(count="How many exchanges (default: 1)")
    async def forget(self, interaction: Interaction, count: app_commands.Range[int, 1, 100] = 1) -> None:
        """/history forget."""
        if not await defer(interaction, ephemeral=True):
            return
        forgotten = await self.context.chat.forget(await self.context.current_dialog_key(interaction), count)
        text = f"I have forgotten {_exchanges(forgotten)}." if forgotten else "There was nothing to forget."
        await self.context.respond(interaction, text)

    @history.command(name="undo", description="Take back your /reset, if we have not talked since.")
    async def undo(self, interaction: Interaction) -> None:
        """/history undo."""
        if not await defer(interaction, ephemeral=True):
            return
        undone = await self.context.chat.undo_reset(await self.context.current_dialog_key(interaction))
        await self.context.respond(interaction, _UNDONE if undone else _NOT_UNDONE)


def _reset_text(pairs: int) -> str:
    if pairs == 0:
        return "We start a new conversation. There was nothing to forget; personas stay as they are."
    return (
        f"We start a new conversation: I no longer think of {_exchanges(pairs)}. Personas stay as they are. "
        f"`/history undo` brings it back within {_MINUTES} minutes."
    )


def _exchanges(pairs: int) -> str:
    return "our last exchange" if pairs == 1 else f"our last {pairs} exchanges"
