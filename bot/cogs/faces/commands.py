"""`/persona face`, and `picture` under `/persona` and `/me persona`: what members see of a persona."""

from __future__ import annotations

import io
from dataclasses import replace

import discord
from discord import app_commands
from discord.app_commands import Choice

from bot.attachments.types import FileRefused
from bot.cogs.faces.text import FACES, NEEDS_MENTION, face_text, outcome_text, picture_text, webhook_text
from bot.cogs.personas.suggestions import suggested_names
from bot.cogs.personas.text import bold
from bot.discord_app.caller import caller_of, dialog_key
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer
from bot.discord_app.feature_cog import FeatureCog
from bot.discord_app.replies.offered_files import offered_files
from bot.discord_app.rest.channel_webhooks import ChannelWebhooks
from bot.discord_app.rest.message_data import NO_MENTIONS
from bot.discord_app.rest.profile_api import ProfileApi
from bot.errors import Hint
from bot.i18n.language import gettext as _
from models.types import PersonaFace

_PICTURE_FILE = "picture.png"


class Faces(FeatureCog):
    """The commands for the looks of personas."""

    def __init__(self, context: CommandContext, api: ProfileApi, webhooks: ChannelWebhooks) -> None:
        super().__init__(context)
        self._api = api
        self._webhooks = webhooks

    def add_to(self, guild: app_commands.Group, own: app_commands.Group) -> None:
        """Add the subcommands to `/persona` and `/me persona`."""

        @app_commands.command(name="face", description="Choose how members see which persona answers them.")
        @app_commands.describe(how="How they see it")
        @app_commands.choices(how=[Choice(name=text, value=face) for face, text in FACES.items()])
        async def face(interaction: Interaction, how: str) -> None:
            await self._set(interaction, next((each for each in FACES if each == how), "off"))

        guild.add_command(face)
        for group, is_own in ((guild, False), (own, True)):
            group.add_command(self._picture_command(own=is_own))

    def _picture_command(self, *, own: bool) -> app_commands.Command[app_commands.Group, ..., None]:
        @app_commands.command(name="picture", description="Give a persona a picture, or take it away.")
        @app_commands.describe(name="Which one", file="PNG, JPEG or WebP; without one, the picture goes")
        async def picture(interaction: Interaction, name: str, file: discord.Attachment | None = None) -> None:
            await self._picture(interaction, name, file, own=own)

        @picture.autocomplete("name")
        async def suggest(interaction: Interaction, typed: str) -> list[Choice[str]]:
            return await suggested_names(self.context.personas.library, interaction, typed, own=own)

        return picture

    async def _set(self, interaction: Interaction, face: PersonaFace) -> None:
        if not await defer(interaction, ephemeral=True):
            return
        guild_id = interaction.guild_id or 0
        settings = await self.context.guild_settings.change(
            guild_id, lambda old: replace(old, persona_face=face), actor_id=interaction.user.id
        )
        outcome = await self.context.personas.profiles.update(guild_id, self._api.send, again=True)
        lines = [face_text(settings.persona_face), outcome_text(outcome, face)]
        if face == "webhook":
            caller = caller_of(interaction)
            problem = self._webhooks.problem(guild_id, caller.parent_id, in_thread=caller.in_thread)
            lines.append(webhook_text(problem))
            if not self.context.settings.message_content:
                lines.append(_(NEEDS_MENTION))
        await self.context.respond(interaction, "\n".join(filter(None, lines)))

    async def _picture(
        self, interaction: Interaction, name: str, file: discord.Attachment | None, *, own: bool
    ) -> None:
        if not await defer(interaction, ephemeral=True):
            return
        key, personas, by = dialog_key(caller_of(interaction)), self.context.personas, interaction.user.id
        entry = await personas.library.named(key, name, own=own)
        if file is None:
            had_one = await personas.pictures.remove(key, entry.persona_id, own=own, actor_id=by)
            await self.context.respond(interaction, picture_text(bold(entry.name), removed=True if had_one else None))
            return
        [offer] = offered_files([file])
        try:
            png = await self.context.chat.file_reader.face(offer)
        except FileRefused as refused:
            raise Hint(_(refused.reason_text)) from None
        await personas.pictures.set(key, entry.persona_id, png, own=own, actor_id=by)
        await interaction.followup.send(
            picture_text(bold(entry.name), removed=False),
            file=discord.File(io.BytesIO(png), _PICTURE_FILE),
            ephemeral=True,
            allowed_mentions=NO_MENTIONS,
        )
