"""/admin, for members with Manage Server: the commands, and which part serves which button."""

from __future__ import annotations

from collections.abc import Mapping

import discord
from discord import app_commands
from discord.app_commands import Choice, Range

from bot.chat.reports import Reports
from bot.cogs.admin.audit import Audit
from bot.cogs.admin.members import Members
from bot.cogs.admin.purge import MAX_DAYS, Purge
from bot.cogs.admin.reports import ReportList
from bot.cogs.admin.stats import Stats
from bot.cogs.config.chat_channel import ChatChannel
from bot.cogs.dialogs.answers import OldButton
from bot.cogs.limits.left import LeftReader
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.permissions.actions import Action
from bot.discord_app.permissions.command_visibility import BY_GUILDS, IN_GUILDS, MANAGE_GUILD
from bot.discord_app.rest.message_api import MessageApi
from bot.guilds.administration.audit import AuditLog
from bot.guilds.administration.blocks import MAX_REASON
from bot.guilds.administration.figures import Figures
from bot.guilds.administration.purges import Purges

_LASTS = [
    Choice(name="1 hour", value="1h"),
    Choice(name="1 day", value="1d"),
    Choice(name="7 days", value="7d"),
    Choice(name="30 days", value="30d"),
    Choice(name="For good", value="forever"),
]

_PURGES = [
    Choice(name="Conversations", value="conversations"),
    Choice(name="What I remember: notes and summaries", value="memory"),
    Choice(name="Personas", value="personas"),
    Choice(name="Everything of these", value="everything"),
]

_ACTIONS = [
    Choice(name="Settings", value="config"),
    Choice(name="Personas", value="persona"),
    Choice(name="Scenes", value="scene"),
    Choice(name="Blocks", value="member"),
    Choice(name="Deletions", value="purge"),
    Choice(name="Deletions of members' data", value="privacy"),
    Choice(name="Reports", value="report"),
    Choice(name="Looks of who runs the bot", value="operator"),
]


class Admin(FeatureCog):
    """The commands. Discord hides them from members without Manage Server by default; the gate refuses them."""

    admin = app_commands.Group(
        name="admin",
        description="Members, figures, the audit log, deletions (for members with Manage Server)",
        default_permissions=MANAGE_GUILD,
        guild_only=True,
        allowed_contexts=IN_GUILDS,
        allowed_installs=BY_GUILDS,
    )

    def __init__(
        self,
        context: CommandContext,
        api: MessageApi,
        *,
        reports: Reports,
        purges: Purges,
        log: AuditLog,
        figures: Figures,
        left: LeftReader,
    ) -> None:
        super().__init__(context)
        self._members = Members(context, api, left)
        self._reports = ReportList(context, api, reports)
        self._purge = Purge(context, api, purges)
        self._audit = Audit(context, api, log)
        self._stats = Stats(context, api, figures)
        self._handlers: dict[str, ComponentHandler] = {}
        for part in (self._members, self._reports, self._purge, self._audit, self._stats):
            self._handlers.update(part.handlers())

    @admin.command(name="user", description="Show what a member uses and has left, and whether they are blocked.")
    @app_commands.describe(member="The member")
    async def user(self, interaction: Interaction, member: discord.User) -> None:
        """/admin user."""
        await self._members.show(interaction, member)

    @admin.command(name="block", description="Refuse to talk with a member, for some time or for good.")
    @app_commands.describe(
        member="The member",
        reason="Why; the member reads it when they try to talk with me",
        duration="For how long (default: 1 day)",
    )
    @app_commands.choices(duration=_LASTS)
    async def block(
        self,
        interaction: Interaction,
        member: discord.User,
        reason: Range[str, 0, MAX_REASON] = "",
        duration: str = "1d",
    ) -> None:
        """/admin block."""
        await self._members.block(interaction, member, reason, duration)

    @admin.command(name="unblock", description="Talk with a member again.")
    @app_commands.describe(member="The member")
    async def unblock(self, interaction: Interaction, member: discord.User) -> None:
        """/admin unblock."""
        await self._members.unblock(interaction, member)

    @admin.command(name="stats", description="Show how much I am used here, as numbers and as a picture.")
    @app_commands.describe(days="Of how many days, today included (default: 30)")
    async def stats(self, interaction: Interaction, days: Range[int, 1, 365] = 30) -> None:
        """/admin stats."""
        await self._stats.show(interaction, days)

    @admin.command(name="audit", description="Show what admins did with me, the newest first.")
    @app_commands.describe(action="Only this kind", member="Only what this member did, or what was done to them")
    @app_commands.choices(action=_ACTIONS)
    async def audit(self, interaction: Interaction, action: str = "", member: discord.User | None = None) -> None:
        """/admin audit."""
        await self._audit.show(interaction, action, member)

    @admin.command(name="purge", description="Delete conversations, notes or personas of this guild. I ask you first.")
    @app_commands.describe(
        what="What to delete",
        member="Only this member's own",
        older_than="Only what was not used for this number of days",
    )
    @app_commands.choices(what=_PURGES)
    async def purge(
        self,
        interaction: Interaction,
        what: str,
        member: discord.User | None = None,
        older_than: Range[int, 1, MAX_DAYS] | None = None,
    ) -> None:
        """/admin purge."""
        await self._purge.ask(interaction, what, member, older_than)

    @admin.command(name="reports", description="Read the answers of mine that members reported.")
    @app_commands.describe(channel="Say there from now on that something was reported, without its words")
    async def reports(self, interaction: Interaction, channel: ChatChannel | None = None) -> None:
        """/admin reports."""
        await self._reports.show(interaction, channel)

    def component_handlers(self) -> Mapping[str, ComponentHandler]:
        """All buttons and forms of /admin; the parts have one handler for each word."""
        return {Action.ADMIN.value: self._pressed}

    async def _pressed(self, interaction: Interaction, argument: str) -> None:
        word, _, rest = argument.partition(":")
        handler = self._handlers.get(word)
        if handler is None:
            raise OldButton()
        await handler(interaction, rest)
