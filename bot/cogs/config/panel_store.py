"""The settings of a guild, for its panel: read as they are stored, changed with an entry in the audit log."""

from __future__ import annotations

from collections.abc import Callable

from bot.cogs.settings_panel.draw import Panel
from bot.cogs.settings_panel.guild_entries import guild_entries, guild_pages, guild_source
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.permissions.actions import Action
from bot.i18n.language import gettext as _
from models.types import GuildSettings


class GuildPanelStore:
    """The settings of a guild, for its panel."""

    def __init__(self, context: CommandContext) -> None:
        self._context = context

    def panel(self, interaction: Interaction, settings: GuildSettings) -> Panel[GuildSettings]:
        """The panel of these settings."""
        guild = interaction.guild

        def knows(channel_or_role_id: int) -> bool:
            if guild is None or guild.unavailable:
                return True
            # Threads that rest are not known to the bot, and are no harm in a menu.
            found = guild.get_channel_or_thread(channel_or_role_id) or guild.get_role(channel_or_role_id)
            return found is not None or channel_or_role_id in settings.channels | settings.locked_channels

        return Panel(
            word=Action.CONFIG.value,
            title=_("What this guild decides"),
            pages=guild_pages(),
            entries=guild_entries(settings, self._context.settings),
            settings=settings,
            source=guild_source(),
            opener_id=interaction.user.id,
            knows=knows,
        )

    async def read(self, interaction: Interaction) -> GuildSettings:
        """The settings of the guild in which the panel is used."""
        return await self._context.guild_settings.read(interaction.guild_id or 0)

    async def change(self, interaction: Interaction, change: Callable[[GuildSettings], GuildSettings]) -> GuildSettings:
        """Change them, with an entry in the audit log."""
        after = await self._context.guild_settings.change(
            interaction.guild_id or 0, change, actor_id=interaction.user.id
        )
        self._context.personas.changed.set()  # a face as a profile is looked after in the background
        return after
