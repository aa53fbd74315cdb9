"""/reset and /history: a member's own conversation ends, or is shown. A reply that is being written is still shown."""

from __future__ import annotations

from discord import app_commands

from bot.cogs._delivery import acknowledge
from bot.cogs._parts import ANYWHERE, INSTALLED, Interaction, Parts, answer, key_of


def reset_command(parts: Parts) -> app_commands.Command[app_commands.Group, ..., None]:
    @app_commands.command(name="reset", description="Start a new conversation. I forget what we said; personas stay.")
    async def reset(interaction: Interaction) -> None:
        if not await acknowledge(interaction, private=True):
            return
        pairs = await parts.chat.reset(key_of(interaction))
        await answer(parts, interaction, _said(pairs))

    reset.allowed_contexts = ANYWHERE
    reset.allowed_installs = INSTALLED
    return reset


class HistoryCommands(app_commands.Group):
    def __init__(self, parts: Parts) -> None:
        super().__init__(name="history", description="What we said to each other here")
        self._parts = parts
        self.allowed_contexts = ANYWHERE
        self.allowed_installs = INSTALLED

    @app_commands.command(name="show", description="Show the last of our conversation, to you alone.")
    @app_commands.describe(count="How many exchanges (default: as many as I keep in mind)")
    async def show(self, interaction: Interaction, count: app_commands.Range[int, 1, 100] | None = None) -> None:
        if not await acknowledge(interaction, private=True):
            return
        pairs = await self._parts.chat.history(key_of(interaction), count or self._parts.settings.max_chat_logs)
        text = "\n\n".join(f"**You:** {pair.user}\n**Me:** {pair.reply}" for pair in pairs)
        await answer(self._parts, interaction, text or "Our conversation has not begun yet.")


def _said(pairs: int) -> str:
    if pairs == 0:
        return "We start a new conversation. There was nothing to forget; personas stay as they are."
    much = "our last exchange" if pairs == 1 else f"our last {pairs} exchanges"
    return f"We start a new conversation: I no longer think of {much}. Personas stay as they are."
