"""Reactions to a reply: the asker's ❌ stops or forgets it, 🔁 writes another one, as the buttons do.

For those whose client shows no buttons, and for a quick answer. All other reactions, and those of other members, mean
nothing. There is no answer to a reaction that cannot be followed: nobody was asked for one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import discord
import structlog
from discord.ext import commands

from bot.discord_app.caller import Caller, reactor_of
from bot.discord_app.context import CommandContext
from bot.discord_app.permissions.actions import Action
from bot.discord_app.replies.conversation import Conversations
from bot.discord_app.replies.turn_actions import TurnActions
from bot.errors import BotError
from bot.log import reason_of
from models.types import Place, StopRequester, TurnInfo

log = structlog.get_logger(__name__)

CROSS = "\N{CROSS MARK}"
AGAIN = (
    "\N{CLOCKWISE RIGHTWARDS AND LEFTWARDS OPEN CIRCLE ARROWS}",
    "\N{ANTICLOCKWISE DOWNWARDS AND UPWARDS OPEN CIRCLE ARROWS}",
)
_RECORDED_WITHIN = 1.0
"""Seconds: a message is on Discord a moment before the database knows its id."""

_MAX_PRESENT = 10_000


class Reactions(commands.Cog):
    """Follows the reactions of those who asked."""

    def __init__(self, bot: commands.Bot, context: CommandContext, conversations: Conversations) -> None:
        self._bot = bot
        self._context = context
        self._conversations = conversations
        self._actions = TurnActions(conversations)
        self._present: OrderedDict[tuple[int, int, str], None] = OrderedDict()

    @commands.Cog.listener()
    async def on_raw_reaction_add(self, event: discord.RawReactionActionEvent) -> None:
        """Follow a reaction to a message of the bot."""
        emoji = event.emoji.name.rstrip("\ufe0f") if event.emoji.is_unicode_emoji() else ""
        me = self._bot.user
        if emoji not in (CROSS, *AGAIN) or me is None or event.user_id == me.id:
            return
        if event.message_author_id not in (None, me.id) and not await self._is_by_webhook(event):
            return
        if event.member is not None and event.member.bot:
            return
        if self._is_repeat(event):
            return
        self._context.track(asyncio.current_task())
        try:
            await self._follow(event, emoji)
        except BotError as error:
            log.info("a reaction was not followed", error=type(error).__name__, reason=reason_of(error))
        except Exception:
            log.exception("a reaction could not be followed")

    @commands.Cog.listener()
    async def on_raw_reaction_remove(self, event: discord.RawReactionActionEvent) -> None:
        """The member may react in the same way once more."""
        self._present.pop(_identity(event), None)

    async def _is_by_webhook(self, event: discord.RawReactionActionEvent) -> bool:
        """Whether a persona may have written the message through a webhook, whose id its author then has."""
        if event.guild_id is None:
            return False
        if self._conversations.api.webhooks.is_own(event.message_author_id or 0):
            return True
        try:  # after a restart webhooks are known once they are used
            return await self._context.chat.turns.turn_of_message(event.message_id) is not None
        except BotError as error:
            log.info("a reaction was not judged", message=event.message_id, reason=error.reason)
            return False

    def _is_repeat(self, event: discord.RawReactionActionEvent) -> bool:
        """Whether this reaction is there already: Discord may send it again after a RESUME, and it has no id."""
        if _identity(event) in self._present:
            return True
        self._present[_identity(event)] = None
        if len(self._present) > _MAX_PRESENT:
            self._present.popitem(last=False)
        return False

    async def _follow(self, event: discord.RawReactionActionEvent, emoji: str) -> None:
        caller = reactor_of(event, self._bot)
        for question_id, running in list(self._conversations.running.items()):
            if event.message_id in running.sink.message_ids:
                if emoji == CROSS and running.asker_id == caller.user_id:
                    await self._context.gate.admit(caller, Action.STOP)
                    await self._context.chat.stop_reply(question_id, StopRequester(caller.user_id))
                return
        turn = await self._context.chat.turns.turn_of_message(event.message_id)
        if turn is None:
            await asyncio.sleep(_RECORDED_WITHIN)
            turn = await self._context.chat.turns.turn_of_message(event.message_id)
        if turn is None or turn.author_id != caller.user_id:
            return
        await self._act(event, caller, turn, emoji)

    async def _act(self, event: discord.RawReactionActionEvent, caller: Caller, turn: TurnInfo, emoji: str) -> None:
        way = Place(
            guild_id=caller.guild_id,
            channel_id=event.channel_id,
            asker_id=caller.user_id,
            nonce=discord.utils.time_snowflake(discord.utils.utcnow()),
            question_id=event.message_id,
            message_ids=(event.message_id,),
            asker_name=caller.name,
        )
        if emoji == CROSS:
            await self._context.gate.admit(caller, Action.FORGET)
            found = await self._actions.find(caller, turn.turn_id, in_open_dialog=False)
            await self._actions.forget(found, way)
        else:
            await self._context.gate.admit(caller, Action.REGENERATE)
            await self._actions.rewrite(caller, await self._actions.find(caller, turn.turn_id), "regenerate", way)


def _identity(event: discord.RawReactionActionEvent) -> tuple[int, int, str]:
    return event.message_id, event.user_id, event.emoji.name
