"""The cogs of the bot, one for each feature."""

from __future__ import annotations

from functools import partial

import discord
from discord.ext import commands

from bot.chat.conversations import NamedConversations
from bot.chat.history import HistoryReader
from bot.chat.turns.deliveries import DeliveryLog
from bot.cogs.ask import Ask
from bot.cogs.cards.commands import Cards
from bot.cogs.chat import Chat
from bot.cogs.config.commands import Config
from bot.cogs.dialogs.conversations import ConversationCommands
from bot.cogs.dialogs.history import History
from bot.cogs.dialogs.reset import ResetCommand
from bot.cogs.faces.commands import Faces
from bot.cogs.faces.profile_job import ProfileJob
from bot.cogs.guild_events import GuildEvents
from bot.cogs.help import Help
from bot.cogs.memory.commands import Memory
from bot.cogs.memory.why import Why, WhyThisAnswer
from bot.cogs.messages import Messages
from bot.cogs.personas.commands import GuildPersonas
from bot.cogs.personas.own_commands import OwnPersonas
from bot.cogs.privacy import Privacy
from bot.cogs.reactions import Reactions
from bot.cogs.reply_actions import ReplyActions
from bot.cogs.scenes import SceneCommands
from bot.cogs.threads import Threads
from bot.cogs.unfinished_replies import UnfinishedReplies
from bot.discord_app.context import CommandContext
from bot.discord_app.replies.conversation import Conversations
from bot.discord_app.rest.message_api import MessageApi
from bot.discord_app.rest.profile_api import ProfileApi
from bot.memory.service import MemoryService
from models.database import Database


def make_cogs(bot: commands.Bot, context: CommandContext, database: Database) -> tuple[commands.Cog, ...]:
    """All cogs. Discord lists their commands in this order."""
    conversations = Conversations(
        chat=context.chat,
        deliveries=DeliveryLog(database),
        guild_settings=context.guild_settings,
        bound_threads=context.bound_threads,
        own_names=partial(_own_names, bot),
        takes_threads=partial(_takes_threads, bot),
        api=MessageApi(bot.http, lambda: bot.user.id if bot.user else 0),
        edit_rate=context.edit_rate,
    )
    memory, reader = MemoryService(database, context.settings), HistoryReader(database)
    why = WhyThisAnswer(context, conversations.api, memory, reader)
    personas, own_personas = GuildPersonas(context, conversations.api), OwnPersonas(context, conversations.api)
    cards = Cards(bot, context, conversations.api)
    cards.add_to(personas.persona, own_personas.persona)
    profiles = ProfileApi(bot.http)
    faces = Faces(context, profiles)
    faces.add_to(personas.persona, own_personas.persona)
    return (
        Chat(context, conversations),
        Ask(bot, context, conversations),
        ReplyActions(context, conversations),
        Messages(bot, context, conversations),
        Reactions(bot, context, conversations),
        Threads(bot, context, conversations),
        ResetCommand(context, conversations.api),
        History(context, conversations, reader, why),
        Memory(context, conversations.api, memory),
        Why(bot, context, why),
        ConversationCommands(context, conversations.api, NamedConversations(database, context.chat)),
        personas,
        own_personas,
        cards,
        faces,
        SceneCommands(context, conversations.api),
        ProfileJob(bot, context.personas, profiles),
        Config(context),
        Privacy(context),
        Help(),
        GuildEvents(bot, database, context.privacy),
        UnfinishedReplies(conversations, database),
    )


def _own_names(bot: commands.Bot, guild_id: int) -> tuple[str, ...]:
    """The names under which members of a guild see the bot."""
    guild = bot.get_guild(guild_id)
    seen = [bot.user, guild.me if guild else None]
    return tuple(name for each in seen if each is not None for name in (each.name, each.display_name))


def _takes_threads(bot: commands.Bot, guild_id: int, channel_id: int) -> bool:
    """Whether this is a text channel of a guild that the bot is in."""
    guild = bot.get_guild(guild_id)
    return guild is not None and isinstance(guild.get_channel(channel_id), discord.TextChannel)
