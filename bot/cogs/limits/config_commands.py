"""`/config limits set` and `/config limits role`: how much members may ask for, within the operator's maxima."""

from __future__ import annotations

from dataclasses import replace

import discord
from discord import app_commands
from discord.app_commands import Range

from bot.cogs.config.changes import RESETS, given, set_role_limits
from bot.cogs.config.storing import store_change
from bot.discord_app.context import Interaction
from bot.discord_app.feature_cog import FeatureCog
from bot.errors import BotError
from bot.guilds.settings.limits import MAX_DAILY, MAX_MINUTE_MESSAGES, MAX_RUNNING_REPLIES
from bot.i18n.language import gettext as _

_Minute = Range[int, 1, MAX_MINUTE_MESSAGES]
_Running = Range[int, 1, MAX_RUNNING_REPLIES]
_Day = Range[int, 0, MAX_DAILY]


class LimitCommands(FeatureCog):
    """The subcommands of `/config limits`."""

    def add_to(self, config: app_commands.Group) -> None:
        """Add them to `/config`."""
        limits = app_commands.Group(name="limits", description="How much members may ask for")

        @limits.command(name="set", description="Limit each member, and all of them together (guild_…).")
        @app_commands.describe(
            minute_messages="Messages a minute of one member",
            running_replies="Answers to one member at once; more messages wait",
            daily_messages="Messages a day (UTC) of one member",
            daily_tokens="Tokens a day (UTC) of one member",
            guild_minute_messages="Messages a minute of all members",
            guild_running_replies="Answers to all members at once; more messages wait",
            guild_daily_messages="Messages a day (UTC) of all members",
            guild_daily_tokens="Tokens a day (UTC) of all members",
        )
        async def set_limits_of_guild(
            interaction: Interaction,
            minute_messages: _Minute | None = None,
            running_replies: _Running | None = None,
            daily_messages: _Day | None = None,
            daily_tokens: _Day | None = None,
            guild_minute_messages: _Minute | None = None,
            guild_running_replies: _Running | None = None,
            guild_daily_messages: _Day | None = None,
            guild_daily_tokens: _Day | None = None,
        ) -> None:
            chosen = given(
                minute_messages=minute_messages,
                running_replies=running_replies,
                daily_turns=daily_messages,
                daily_tokens=daily_tokens,
                guild_minute_messages=guild_minute_messages,
                guild_running_replies=guild_running_replies,
                guild_daily_turns=guild_daily_messages,
                guild_daily_tokens=guild_daily_tokens,
            )
            if not chosen:
                raise BotError(_("Please choose at least one limit. `/config show` lists them."))
            await store_change(self.context, interaction, lambda old: replace(old, **chosen))

        @limits.command(name="role", description="Give a role its own limits; with no number, it has none any more.")
        @app_commands.describe(
            role="The role; a member with several has the best of their limits",
            minute_messages="Messages a minute of one member",
            running_replies="Answers to one member at once",
            daily_messages="Messages a day (UTC) of one member",
            daily_tokens="Tokens a day (UTC) of one member",
        )
        async def set_limits_of_role(
            interaction: Interaction,
            role: discord.Role,
            minute_messages: _Minute | None = None,
            running_replies: _Running | None = None,
            daily_messages: _Day | None = None,
            daily_tokens: _Day | None = None,
        ) -> None:
            chosen = given(
                minute_messages=minute_messages,
                running_replies=running_replies,
                daily_turns=daily_messages,
                daily_tokens=daily_tokens,
            )
            await store_change(self.context, interaction, set_role_limits(role.id, chosen))

        @limits.command(name="reset", description="Take back all limits of this guild and its roles.")
        async def reset_limits(interaction: Interaction) -> None:
            await store_change(self.context, interaction, RESETS["limits"])

        config.add_command(limits)
