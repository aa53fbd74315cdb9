"""/chat and /regenerate."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

import discord
from discord import app_commands

from bot.chat.requests import TurnKind
from bot.discord_app.caller import caller_of
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import may_send
from bot.discord_app.feature_cog import FeatureCog
from bot.discord_app.replies.acknowledge import acknowledged
from bot.discord_app.replies.conversation import Conversations
from bot.discord_app.replies.offered_files import offered_files
from bot.discord_app.replies.question import Question
from models.types import DIRECT_MESSAGES, DialogKey, Place


class Chat(FeatureCog):
    """Answers what is typed into a command."""

    def __init__(self, context: CommandContext, conversations: Conversations) -> None:
        super().__init__(context)
        self._conversations = conversations

    @app_commands.command(name="chat", description="Talk to me. I remember what we said before.")
    @app_commands.describe(
        message="What you want to say",
        private="Only you see the answer (default: as you chose in /me settings)",
        file="A text, code, a PDF or, if my model sees it, a picture",
        file2="A second file",
        file3="A third file",
        file4="A fourth file",
    )
    async def chat(
        self,
        interaction: Interaction,
        message: str,
        private: bool | None = None,
        file: discord.Attachment | None = None,
        file2: discord.Attachment | None = None,
        file3: discord.Attachment | None = None,
        file4: discord.Attachment | None = None,
    ) -> None:
        """/chat."""
        files = [each for each in (file, file2, file3, file4) if each is not None]
        await self._answer(interaction, private, "new", message, files)

    @app_commands.command(name="regenerate", description="Get another answer to the last thing you said to me.")
    @app_commands.describe(private="Only you see the answer (default: as you chose in /me settings)")
    async def regenerate(self, interaction: Interaction, private: bool | None = None) -> None:
        """/regenerate."""
        await self._answer(interaction, private, "regenerate", "")

    async def _is_private(self, interaction: Interaction, asked: bool | None) -> bool:
        """Whether only the member sees the answer: as they asked, else as they chose for all commands."""
        return await wants_private(self.context, interaction) if asked is None else asked

    async def _answer(
        self,
        interaction: Interaction,
        private: bool | None,
        kind: TurnKind,
        text: str,
        files: Sequence[discord.Attachment] = (),
    ) -> None:
        place = place_of(interaction, ephemeral=await self._is_private(interaction, private))
        async with acknowledged(self._conversations.deliveries, interaction, place) as asked:
            if asked is None:
                return
            shown, record = asked
            caller, offers = caller_of(interaction), offered_files(files)
            question = Question(caller, shown, text, kind, offers=offers, quote=kind == "new")
            await self._conversations.answer(question, record)


async def wants_private(context: CommandContext, interaction: Interaction) -> bool:
    """Whether the member chose answers that only they see. In direct messages nobody else could see them."""
    caller = caller_of(interaction)
    if caller.guild_id == DIRECT_MESSAGES and not caller.bot_is_absent:
        return False
    return await context.member_settings.wants_private(DialogKey(caller.guild_id, caller.user_id))


def place_of(
    interaction: Interaction,
    *,
    ephemeral: bool,
    about_id: int | None = None,
    message_ids: tuple[int | None, ...] = (),
) -> Place:
    """The response to an interaction, as the place of a reply. `about_id`: the message that is asked about."""
    caller = caller_of(interaction)
    return Place(
        guild_id=caller.guild_id,
        channel_id=0 if caller.bot_is_absent else caller.channel_id,
        asker_id=caller.user_id,
        nonce=interaction.id,
        ephemeral=ephemeral,
        application_id=interaction.application_id,
        reply_token=interaction.token,
        token_expires_at=interaction.expires_at.astimezone(UTC),
        about_id=about_id,
        message_ids=message_ids,
        may_send=may_send(interaction),
        path=f"{interaction.guild_id or '@me'}/{caller.channel_id}",
        asker_name=caller.name,
    )
