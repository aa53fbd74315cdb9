"""/privacy: what is stored about a person, as a list, as a file, or gone. Everywhere, and for oneself only."""

from __future__ import annotations

import io

import discord
from discord import app_commands
from discord.ui import Button, View

from bot.discord_app.context import ANYWHERE, INSTALLED, CommandContext, Interaction, answer
from bot.discord_app.delivery import NO_MENTIONS, acknowledge
from bot.errors import BotError
from bot.storage import translate_database_errors

_NOTHING = "I have stored nothing about you."
_ASK = """\
This deletes all that I have stored about you: conversations, your own personas and your settings, in every guild and \
in direct messages. It cannot be undone. `/privacy export` gives you a copy first."""
_OPTED = {
    True: "I store nothing more of what you write, from now on; I will not remember anything either. "
    "What is stored already stays until you use `/privacy delete`.",
    False: "I remember our conversations again, from now on.",
}


class PrivacyCommands(app_commands.Group):
    def __init__(self, parts: CommandContext) -> None:
        super().__init__(name="privacy", description="What I have stored about you, and what becomes of it")
        self._parts = parts
        self.allowed_contexts = ANYWHERE
        self.allowed_installs = INSTALLED

    @app_commands.command(name="show", description="Show what I have stored about you, and for how long.")
    async def show(self, interaction: Interaction) -> None:
        if not await acknowledge(interaction, private=True):
            return
        with translate_database_errors():
            held = await self._parts.privacy.show(interaction.user.id)
        settings = self._parts.settings
        lines = [f"- {name.replace('_', ' ')}: {count:,}" for name, count in held.counts.items() if count]
        about = ["I have stored about you, in all guilds and direct messages:", *lines] if lines else [_NOTHING]
        if held.opted_out_since is not None:
            about.append(f"You opted out on {held.opted_out_since:%Y-%m-%d}: I store nothing new.")
        about.append(
            f"A conversation ends when it rests for {settings.session_ttl.total_seconds() / 86400:g} days or by "
            f"`/reset`, and is deleted {settings.retention_days} days later, unless a guild or you chose otherwise."
        )
        await answer(self._parts, interaction, "\n".join(about))

    @app_commands.command(name="export", description="Get a copy of all that I have stored about you.")
    async def export(self, interaction: Interaction) -> None:
        if not await acknowledge(interaction, private=True):
            return
        with translate_database_errors():
            copy = await self._parts.privacy.export(interaction.user.id)
        if len(copy) > interaction.filesize_limit:
            raise BotError("There is too much for one file on Discord. Please ask the owner of this bot for your copy.")
        file = discord.File(io.BytesIO(copy), "guildllama-export.zip")
        await interaction.edit_original_response(
            content="All that I have stored about you.", attachments=[file], allowed_mentions=NO_MENTIONS
        )

    @app_commands.command(name="delete", description="Delete all that I have stored about you.")
    async def delete(self, interaction: Interaction) -> None:
        view = View(timeout=None)
        view.add_item(
            Button(
                label="Delete everything", style=discord.ButtonStyle.danger, custom_id=f"privacy:{interaction.user.id}"
            )
        )
        view.stop()  # served by its custom id; see `bot.discord_app.client`
        await interaction.response.send_message(_ASK, view=view, ephemeral=True, allowed_mentions=NO_MENTIONS)

    @app_commands.command(name="optout", description="Talk to me without being remembered: I store nothing of it.")
    async def optout(self, interaction: Interaction) -> None:
        await self._opt(interaction, out=True)

    @app_commands.command(name="optin", description="Be remembered again.")
    async def optin(self, interaction: Interaction) -> None:
        await self._opt(interaction, out=False)

    async def _opt(self, interaction: Interaction, *, out: bool) -> None:
        if not await acknowledge(interaction, private=True):
            return
        privacy = self._parts.privacy
        with translate_database_errors():
            await (privacy.opt_out if out else privacy.opt_in)(interaction.user.id)
        await answer(self._parts, interaction, _OPTED[out])


async def confirmed(parts: CommandContext, interaction: Interaction, argument: str) -> None:
    """Serve the button: delete, and hand out the receipt."""
    if argument != str(interaction.user.id):
        raise BotError("Only the person whose data it is can delete it.")
    await interaction.response.defer()
    with translate_database_errors():
        receipt = await parts.privacy.delete(interaction.user.id)
    gone = [f"- {name.replace('_', ' ')}: {count:,}" for name, count in receipt.counts.items() if count]
    text = "\n".join(["Deleted:", *gone, f"Receipt `{receipt.receipt_id}`"]) if gone else _NOTHING
    await interaction.edit_original_response(content=text, view=None, allowed_mentions=NO_MENTIONS)
