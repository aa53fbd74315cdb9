"""/quota and /queue: what a member may still ask for, and how their waiting messages stand.

The answers are for the member alone. A waiting message is cancelled by a button under its line, by whom it belongs to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from discord import app_commands

from bot.chat.queue.waiting import WaitingInfo
from bot.cogs.dialogs.answers import OldButton, answer, begin, number
from bot.cogs.dialogs.buttons import Json, button, row
from bot.cogs.limits.left import LeftReader
from bot.cogs.limits.text import queue_text, quota_text
from bot.discord_app.caller import caller_of, dialog_key
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.permissions.actions import Action
from bot.discord_app.rest.message_api import MessageApi
from bot.i18n.language import gettext as _
from models.types import DIRECT_MESSAGES, StopRequester

_MAX_BUTTONS = 5
_MAX_ROWS = 5
_LOOKS, _LOOK_INTERVAL = 20, 0.05  # seconds


class LimitInfo(FeatureCog):
    """The commands that tell a member of limits and waiting messages."""

    def __init__(self, context: CommandContext, api: MessageApi, left: LeftReader) -> None:
        super().__init__(context)
        self._api = api
        self._left = left

    @app_commands.command(name="quota", description="What you may still ask me for here, and when it returns.")
    async def quota(self, interaction: Interaction) -> None:
        """/quota."""
        if not await defer(interaction, ephemeral=True):
            return
        caller = caller_of(interaction)
        key = dialog_key(caller)
        parts = [await self._left.of_member(key, caller.role_ids)]
        if caller.manages_guild and caller.guild_id != DIRECT_MESSAGES:
            parts.append(await self._left.of_guild(key))
        await self.context.respond(interaction, quota_text(parts))

    @app_commands.command(name="queue", description="Which of your messages wait for an answer, and about how long.")
    async def queue(self, interaction: Interaction) -> None:
        """/queue."""
        if await begin(interaction):
            await self._show(interaction)

    def component_handlers(self) -> Mapping[str, ComponentHandler]:
        """The buttons under the list of waiting messages."""
        return {Action.QUEUE.value: self._pressed}

    async def _pressed(self, interaction: Interaction, argument: str) -> None:
        word, _separator, asked_by = argument.partition(":")
        if word not in ("show", "cancel"):
            raise OldButton()
        message_id = number(asked_by) if word == "cancel" else 0
        if not await begin(interaction):
            return
        caller = caller_of(interaction)
        # Only what waits here and belongs to the member: a custom id can be forged.
        if word == "cancel" and any(each.asked_by == message_id for each in self._own(interaction)):
            await self.context.chat.stop_reply(message_id, StopRequester(caller.user_id))
            for _attempt in range(_LOOKS):  # its task ends in a moment
                if all(each.asked_by != message_id for each in self._own(interaction)):
                    break
                await asyncio.sleep(_LOOK_INTERVAL)
        await self._show(interaction)

    async def _show(self, interaction: Interaction) -> None:
        own = self._own(interaction)
        text = queue_text(own, self.context.chat.num_waiting)
        buttons = [
            button(_("Cancel message {number}").format(number=index), f"queue:cancel:{each.asked_by}", danger=True)
            for index, each in enumerate(own, 1)
            if each.asked_by is not None
        ][: _MAX_BUTTONS * (_MAX_ROWS - 1)]
        rows: list[Json] = []
        for start in range(0, len(buttons), _MAX_BUTTONS):
            rows += row(*buttons[start : start + _MAX_BUTTONS])
        rows += row(button(_("Refresh"), "queue:show:"))
        await answer(self._api, interaction, text, rows)

    def _own(self, interaction: Interaction) -> tuple[WaitingInfo, ...]:
        return self.context.chat.waiting_of(dialog_key(caller_of(interaction)))
