"""/chat and /regenerate, and the Stop button of their replies."""

from __future__ import annotations

import discord
import structlog
from discord import app_commands
from discord.ui import Button, View

from bot.chat.service import ChatReply, ChatRequest
from bot.discord_app.context import ANYWHERE, INSTALLED, CommandContext, Interaction, key_of, roles_of
from bot.discord_app.delivery import NO_MENTIONS, InteractionSink, acknowledge
from bot.discord_app.permissions import Action, authorise
from bot.discord_app.streamed_reply import ReplyDeleted, StreamedReply
from bot.failpoint import failpoint
from models.types import DIRECT_MESSAGES, GuildSettings

log = structlog.get_logger(__name__)

NOT_SAVED = "-# I could not save this answer, so I will not remember it."


def chat_command(parts: CommandContext) -> app_commands.Command[app_commands.Group, ..., None]:
    @app_commands.command(name="chat", description="Talk to me. I remember what we said before.")
    @app_commands.describe(message="What you want to say", private="Only you see the answer (default: everyone does)")
    async def chat(interaction: Interaction, message: str, private: bool = False) -> None:
        if await acknowledge(interaction, private=private):
            failpoint("after_acknowledge")
            await _reply(parts, interaction, message, private=private)

    chat.allowed_contexts = ANYWHERE
    chat.allowed_installs = INSTALLED
    return chat


def regenerate_command(parts: CommandContext) -> app_commands.Command[app_commands.Group, ..., None]:
    @app_commands.command(name="regenerate", description="Get another answer to the last thing you said to me.")
    @app_commands.describe(private="Only you see the answer (default: everyone does)")
    async def regenerate(interaction: Interaction, private: bool = False) -> None:
        if await acknowledge(interaction, private=private):
            await _reply(parts, interaction, None, private=private)

    regenerate.allowed_contexts = ANYWHERE
    regenerate.allowed_installs = INSTALLED
    return regenerate


async def _reply(parts: CommandContext, interaction: Interaction, message: str | None, *, private: bool) -> None:
    """Answer a message, or without one the last message of this conversation anew."""
    chosen = await parts.guilds.get(interaction.guild_id or DIRECT_MESSAGES)
    # See `_gate`: the guild's rules may not have been in memory.
    authorise(interaction, Action.REGENERATE if message is None else Action.CHAT, chosen)
    request = ChatRequest(
        key=key_of(interaction, chosen.dialog_scope),
        text=message or "",
        interaction_id=interaction.id,
        reply_token=interaction.token,
        application_id=interaction.application_id,
        role_turns=_role_turns(interaction, chosen),
    )
    surface = InteractionSink(interaction, private=private, live_view=lambda: stop_view(interaction))
    reply = StreamedReply(surface, parts.edit_rate)
    parts.running_replies[interaction.id] = request.key
    try:
        answering = parts.chat.regenerate if message is None else parts.chat.chat
        result = await answering(request, reply.push)
        parts.running_replies.pop(interaction.id)
        await reply.finish(_text(result))
        failpoint("after_final_edit")
    except ReplyDeleted as gone:
        await reply.cancel()
        log.info("no final text", interaction=interaction.id, reason=gone.reason)
    except BaseException:
        await reply.cancel()
        await surface.clear()
        raise
    finally:
        parts.running_replies.pop(interaction.id, None)


def _role_turns(interaction: Interaction, chosen: GuildSettings) -> int | None:
    """The daily quota that the member's roles give: the most generous one. None: the guild's own applies."""
    mine = roles_of(interaction)
    given = [role.daily_turns for role in chosen.roles if role.role_id in mine and role.daily_turns is not None]
    return max(given, default=None)


def _text(result: ChatReply) -> str:
    return result.text if result.saved else f"{result.text}\n\n{NOT_SAVED}"


def stop_view(interaction: Interaction) -> View:
    """The button under a reply that is being written. It carries all it needs, so it is served after a restart too."""
    view = View(timeout=None)
    view.add_item(
        Button(
            label="Stop", emoji="\N{BLACK SQUARE FOR STOP}", custom_id=f"stop:{interaction.user.id}:{interaction.id}"
        )
    )
    view.stop()  # discord.py need not keep it: `bot.discord_app.client` serves every button by its custom id
    return view


async def stop(parts: CommandContext, interaction: Interaction, argument: str) -> None:
    """Serve the Stop button: end the reply, which keeps what it says so far."""
    asker, _, asked = argument.partition(":")
    if asker != str(interaction.user.id):
        await interaction.response.send_message(
            "Only the person who asked can stop this answer.", ephemeral=True, allowed_mentions=NO_MENTIONS
        )
        return
    key = parts.running_replies.get(int(asked))
    if key is None:
        # Finished meanwhile, or written by a process that is gone: take the button away.
        await interaction.response.edit_message(view=None)
        await interaction.followup.send(
            "I am not writing this answer any more.", ephemeral=True, allowed_mentions=discord.AllowedMentions.none()
        )
        return
    await interaction.response.defer()
    await parts.chat.stop(key)
