"""The cogs of the bot, one for each feature."""

from __future__ import annotations

from functools import partial

import discord
from discord.ext import commands

from bot.chat.conversations import NamedConversations
from bot.chat.history import HistoryReader
from bot.chat.reports import Reports
from bot.chat.turns.deliveries import DeliveryLog
from bot.cogs.admin.commands import Admin
from bot.cogs.ask import Ask
from bot.cogs.cards.commands import Cards
from bot.cogs.chat import Chat
from bot.cogs.config.commands import Config
from bot.cogs.dialogs.conversations import ConversationCommands
from bot.cogs.dialogs.history import History
from bot.cogs.dialogs.reset import ResetCommand
from bot.cogs.faces.commands import Faces
from bot.cogs.faces.profile_job import ProfileJob
from bot.cogs.filters.commands import FilterCommands
from bot.cogs.guild_events import GuildEvents
from bot.cogs.help import Help
from bot.cogs.limits.commands import LimitInfo
from bot.cogs.limits.config_commands import LimitCommands
from bot.cogs.limits.left import LeftReader
from bot.cogs.memory.commands import Memory
from bot.cogs.memory.why import Why, WhyThisAnswer
from bot.cogs.messages import Messages
from bot.cogs.own_settings import OwnSettings
from bot.cogs.personas.commands import GuildPersonas
from bot.cogs.personas.own_commands import OwnPersonas
from bot.cogs.privacy import Privacy
from bot.cogs.reactions import Reactions
from bot.cogs.reply_actions import ReplyActions
from bot.cogs.report import ReportCommand
from bot.cogs.scenes import SceneCommands
from bot.cogs.threads import Threads
from bot.cogs.unfinished_replies import UnfinishedReplies
from bot.discord_app.context import CommandContext
from bot.discord_app.replies.conversation import Conversations
from bot.discord_app.rest.channel_webhooks import ChannelWebhooks
from bot.discord_app.rest.message_api import MessageApi
from bot.discord_app.rest.profile_api import ProfileApi
from bot.discord_app.rest.request_pace import RequestPace
from bot.discord_app.rest.webhook_api import WebhookApi
from bot.discord_app.rest.webhook_pictures import WebhookPictures
from bot.guilds.administration.audit import AuditLog
from bot.guilds.administration.figures import Figures
from bot.guilds.administration.purges import Purges
from bot.guilds.usage import UsageReader
from bot.memory.service import MemoryService
from models.database import Database


def make_cogs(bot: commands.Bot, context: CommandContext, database: Database) -> tuple[commands.Cog, ...]:
    """All cogs. Discord lists their commands in this order."""
    pace = RequestPace()
    own_id = partial(_own_id, bot)
    webhook_api = WebhookApi(bot.http, pace)
    webhooks = ChannelWebhooks(
        webhook_api,
        own_id,
        partial(_own_name, bot),
        partial(_may_use_webhooks, bot),
        WebhookPictures(webhook_api, context.personas.profiles.of_webhooks),
    )
    conversations = Conversations(
        chat=context.chat,
        deliveries=DeliveryLog(database),
        guild_settings=context.guild_settings,
        bound_threads=context.bound_threads,
        languages=context.languages,
        own_names=partial(_own_names, bot),
        takes_threads=partial(_takes_threads, bot),
        api=MessageApi(bot.http, own_id, pace, webhooks),
        edit_rate=context.edit_rate,
        filters=context.filters,
    )
    memory, reader = MemoryService(database, context.settings), HistoryReader(database)
    reports = Reports(database, context.settings)
    why = WhyThisAnswer(context, conversations.api, memory, reader)
    personas, own_personas = GuildPersonas(context, conversations.api), OwnPersonas(context, conversations.api)
    cards = Cards(bot, context, conversations.api)
    cards.add_to(personas.persona, own_personas.persona)
    own_settings = OwnSettings(context)
    own_settings.add_to(own_personas.me)
    profiles = ProfileApi(bot.http)
    faces = Faces(context, profiles, webhooks)
    faces.add_to(personas.persona, own_personas.persona)
    config, limits = Config(context), LimitCommands(context)
    limits.add_to(config.config)
    filters = FilterCommands(context)
    filters.add_to(config.config)
    left = LeftReader(context, UsageReader(database))
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
        own_settings,
        cards,
        faces,
        SceneCommands(context, conversations.api),
        ProfileJob(bot, context.personas, profiles),
        LimitInfo(context, conversations.api, left),
        config,
        limits,
        filters,
        Admin(
            context,
            conversations.api,
            reports=reports,
            purges=Purges(database, context.privacy),
            log=AuditLog(database),
            figures=Figures(database),
            left=left,
        ),
        ReportCommand(bot, context, conversations.api, reports, reader),
        Privacy(context),
        Help(context.settings),
        GuildEvents(bot, database, context.privacy),
        UnfinishedReplies(bot, conversations, database, context.responsible),
    )


def _own_id(bot: commands.Bot) -> int:
    return bot.user.id if bot.user else 0


def _own_name(bot: commands.Bot) -> str:
    return bot.user.display_name if bot.user else ""


def _may_use_webhooks(bot: commands.Bot, guild_id: int, channel_id: int, in_thread: bool) -> bool | None:
    """Whether the bot may use webhooks and write in a channel, or in its threads; None where it is not known."""
    guild = bot.get_guild(guild_id)
    channel = guild.get_channel(channel_id) if guild else None
    if guild is None or channel is None or guild.me is None:
        return None
    allowed = channel.permissions_for(guild.me)
    return allowed.manage_webhooks and (allowed.send_messages_in_threads if in_thread else allowed.send_messages)


def _own_names(bot: commands.Bot, guild_id: int) -> tuple[str, ...]:
    """The names under which members of a guild see the bot."""
    guild = bot.get_guild(guild_id)
    seen = [bot.user, guild.me if guild else None]
    return tuple(name for each in seen if each is not None for name in (each.name, each.display_name))


def _takes_threads(bot: commands.Bot, guild_id: int, channel_id: int) -> bool:
    """Whether this is a text channel of a guild that the bot is in."""
    guild = bot.get_guild(guild_id)
    return guild is not None and isinstance(guild.get_channel(channel_id), discord.TextChannel)
