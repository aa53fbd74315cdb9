"""The cogs of the bot, one for each feature."""

from __future__ import annotations

from discord.ext import commands

from bot.chat.deliveries import DeliveryLog
from bot.cogs.chat import Chat
from bot.cogs.config.commands import Config
from bot.cogs.guild_events import GuildEvents
from bot.cogs.help import Help
from bot.cogs.history import History
from bot.cogs.messages import Messages
from bot.cogs.personas.commands import Persona
from bot.cogs.privacy import Privacy
from bot.cogs.reactions import Reactions
from bot.cogs.reply_actions import ReplyActions
from bot.cogs.unfinished_replies import UnfinishedReplies
from bot.discord_app.context import CommandContext
from bot.discord_app.message_api import MessageApi
from bot.discord_app.replies.conversation import Conversations
from models.database import Database


def make_cogs(bot: commands.Bot, context: CommandContext, database: Database) -> tuple[commands.Cog, ...]:
    """All cogs. Discord lists their commands in this order."""
    conversations = Conversations(
        chat=context.chat,
        deliveries=DeliveryLog(database),
        guild_settings=context.guild_settings,
        api=MessageApi(bot.http, lambda: bot.user.id if bot.user else 0),
        edit_rate=context.edit_rate,
    )
    return (
        Chat(context, conversations),
        ReplyActions(context, conversations),
        Messages(bot, context, conversations),
        Reactions(bot, context, conversations),
        History(context),
        Persona(context),
        Config(context),
        Privacy(context),
        Help(),
        GuildEvents(bot, database),
        UnfinishedReplies(conversations, database),
    )
