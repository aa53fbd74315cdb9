"""/chat and /regenerate."""

from __future__ import annotations

from datetime import UTC

from discord import app_commands

from bot.chat.requests import TurnKind
from bot.discord_app.caller import caller_of
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer, is_ephemeral
from bot.discord_app.feature_cog import FeatureCog
from bot.discord_app.replies.conversation import Conversations, Question
from bot.failpoint import failpoint
from models.types import Place


class Chat(FeatureCog):
    """Answers what is typed into a command."""

    def __init__(self, context: CommandContext, conversations: Conversations) -> None:
        super().__init__(context)
        self._conversations = conversations

    @app_commands.command(name="chat", description="Talk to me. I remember what we said before.")
    @app_commands.describe(message="What you want to say", private="Only you see the answer (default: everyone does)")
    async def chat(self, interaction: Interaction, message: str, private: bool = False) -> None:
        """/chat."""
        if await defer(interaction, ephemeral=private):
            failpoint("after_acknowledge")
            await self._answer(interaction, "new", message)

    @app_commands.command(name="regenerate", description="Get another answer to the last thing you said to me.")
    @app_commands.describe(private="Only you see the answer (default: everyone does)")
    async def regenerate(self, interaction: Interaction, private: bool = False) -> None:
        """/regenerate."""
        if await defer(interaction, ephemeral=private):
            await self._answer(interaction, "regenerate", "")

    async def _answer(self, interaction: Interaction, kind: TurnKind, text: str) -> None:
        place = place_of(interaction, ephemeral=is_ephemeral(interaction))
        quote = kind == "new" and place.is_seen_by_others
        await self._conversations.answer(Question(caller_of(interaction), place, text, kind, quote=quote))


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
        path=f"{interaction.guild_id or '@me'}/{caller.channel_id}",
    )
