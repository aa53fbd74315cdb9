"""/chat and /regenerate, and the Stop button of their replies."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import structlog
from discord import app_commands
from discord.ui import Button, View

from bot.chat.service import ChatReply, ChatRequest
from bot.discord_app.context import Interaction, dialog_key, role_ids
from bot.discord_app.delivery import DISCORD_ERRORS, NO_MENTIONS, InteractionSink, defer, defer_click
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.permissions import Action, authorise
from bot.discord_app.streamed_reply import ReplyDeleted, StreamedReply
from bot.failpoint import failpoint
from models.types import DIRECT_MESSAGES, GuildSettings

log = structlog.get_logger(__name__)

_NOT_SAVED = "-# I could not save this answer yet, so I may not remember it."


class Chat(FeatureCog):
    """Answers messages."""

    @app_commands.command(name="chat", description="Talk to me. I remember what we said before.")
    @app_commands.describe(message="What you want to say", private="Only you see the answer (default: everyone does)")
    async def chat(self, interaction: Interaction, message: str, private: bool = False) -> None:
        """/chat."""
        if await defer(interaction, ephemeral=private):
            failpoint("after_acknowledge")
            await self._reply(interaction, message, ephemeral=private)

    @app_commands.command(name="regenerate", description="Get another answer to the last thing you said to me.")
    @app_commands.describe(private="Only you see the answer (default: everyone does)")
    async def regenerate(self, interaction: Interaction, private: bool = False) -> None:
        """/regenerate."""
        if await defer(interaction, ephemeral=private):
            await self._reply(interaction, None, ephemeral=private)

    def component_handlers(self) -> Mapping[str, ComponentHandler]:
        """The Stop button."""
        return {"stop": self._stop_clicked}

    async def _reply(self, interaction: Interaction, message: str | None, *, ephemeral: bool) -> None:
        """Answer a message, or None to answer the dialog's last message again."""
        guild_settings = await self.context.guild_settings.get(interaction.guild_id or DIRECT_MESSAGES)
        # Again, as the gate may not have known the guild's rules: see `permissions`.
        authorise(interaction, Action.REGENERATE if message is None else Action.CHAT, guild_settings)
        request = ChatRequest(
            key=dialog_key(interaction, guild_settings.dialog_scope),
            text=message or "",
            interaction_id=interaction.id,
            reply_token=interaction.token,
            application_id=interaction.application_id,
            role_turns=_role_turns(interaction, guild_settings),
        )
        sink = InteractionSink(interaction, ephemeral=ephemeral, live_view=lambda: _stop_view(interaction))
        reply = StreamedReply(sink, self.context.edit_rate)
        try:
            generate = self.context.chat.regenerate if message is None else self.context.chat.chat
            result = await generate(request, reply.push)
            await reply.finish(_text(result))
            failpoint("after_final_edit")
        except ReplyDeleted as deleted:
            await reply.cancel()
            log.info("no final text", interaction=interaction.id, reason=deleted.reason)
        except BaseException:
            await reply.cancel()
            await sink.clear()
            raise

    async def _stop_clicked(self, interaction: Interaction, argument: str) -> None:
        """Stop the reply, which keeps the text so far. `argument`: the ids of the member and interaction that asked.

        Another process may write the reply, and Discord may send the click to both: then one of them acknowledges it,
        and each does its part.
        """
        user_id, _, interaction_id = argument.partition(":")
        if user_id != str(interaction.user.id):
            await interaction.response.send_message(
                "Only the person who asked can stop this answer.", ephemeral=True, allowed_mentions=NO_MENTIONS
            )
            return
        acknowledged = await defer_click(interaction)
        stopped = await self.context.chat.stop_reply(int(interaction_id))
        if acknowledged and not stopped:
            # It has finished meanwhile, or its process is gone: remove the button.
            with contextlib.suppress(*DISCORD_ERRORS):  # the message may be gone as well
                await interaction.edit_original_response(view=None)
            await interaction.followup.send(
                "I am not writing this answer any more.", ephemeral=True, allowed_mentions=NO_MENTIONS
            )


def _stop_view(interaction: Interaction) -> View:
    """The button under a reply that is being written."""
    view = View(timeout=None)
    view.add_item(
        Button(
            label="Stop", emoji="\N{BLACK SQUARE FOR STOP}", custom_id=f"stop:{interaction.user.id}:{interaction.id}"
        )
    )
    view.stop()  # discord.py need not remember it: the bot serves buttons by their custom ids
    return view


def _role_turns(interaction: Interaction, guild_settings: GuildSettings) -> int | None:
    """The largest daily quota among the member's roles; None if no role has one and the guild's quota applies."""
    mine = role_ids(interaction)
    quotas = [
        role.daily_turns for role in guild_settings.roles if role.role_id in mine and role.daily_turns is not None
    ]
    return max(quotas, default=None)


def _text(result: ChatReply) -> str:
    return result.text if result.saved else f"{result.text}\n\n{_NOT_SAVED}"
