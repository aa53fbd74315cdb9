"""`/persona face`: whether the name of a persona is seen where it answers. Managers decide, everyone is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from discord import app_commands
from discord.app_commands import Choice

from bot.cogs.faces.text import FACES, face_text
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer
from bot.discord_app.feature_cog import FeatureCog
from models.types import PersonaFace

_FACES: Mapping[str, PersonaFace] = {"off": "off", "name": "name"}


class Faces(FeatureCog):
    """The commands for the looks of personas."""

    def __init__(self, context: CommandContext) -> None:
        super().__init__(context)

    def add_to(self, guild: app_commands.Group) -> None:
        """Add the subcommands to `/persona`."""

        @app_commands.command(name="face", description="Choose how members see which persona answers them.")
        @app_commands.describe(how="How they see it")
        @app_commands.choices(how=[Choice(name=text, value=face) for face, text in FACES.items()])
        async def face(interaction: Interaction, how: str) -> None:
            await self._set(interaction, _FACES.get(how, "off"))

        guild.add_command(face)

    async def _set(self, interaction: Interaction, face: PersonaFace) -> None:
        if not await defer(interaction, ephemeral=True):
            return
        settings = await self.context.guild_settings.change(
            interaction.guild_id or 0, lambda old: replace(old, persona_face=face), actor_id=interaction.user.id
        )
        await self.context.respond(interaction, face_text(settings.persona_face))
