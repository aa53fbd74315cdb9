"""Whether members may have a persona of their own: in the guild, and in a place. Changes are the guild's settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import discord

from bot.cogs.config.changes import change_role
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer
from bot.errors import BotError
from bot.i18n.language import N_
from bot.i18n.language import gettext as _
from models.types import GuildSettings, OwnPersonas

_KEPT = N_("What members have chosen is kept, and answers again once that is allowed.")


class PersonaRules:
    """/persona allow, lock and unlock."""

    def __init__(self, context: CommandContext) -> None:
        self._context = context

    async def allow(self, interaction: Interaction, who: OwnPersonas, role: discord.Role | None) -> None:
        """Let all members, those with some roles, or nobody have a persona of their own."""
        if role is not None and who != "roles":
            raise BotError(_("A role can be named only with `roles`."))
        if not await defer(interaction, ephemeral=True):
            return

        def changed(old: GuildSettings) -> GuildSettings:
            if who != "roles":
                for each in old.roles:
                    old = change_role(each.role_id, lambda before: replace(before, own_persona=False))(old)
            if role is not None:
                old = change_role(role.id, lambda before: replace(before, own_persona=True))(old)
            new = replace(old, own_personas=who)
            if who == "roles" and not any(each.own_persona for each in new.roles):
                raise BotError(_("Please name a role. Used again with another role, the command adds that one."))
            return new

        after = await self._change(interaction, changed)
        await self._context.respond(interaction, own_personas_text(after))

    async def lock(self, interaction: Interaction, channel_id: int, *, locked: bool) -> None:
        """Let no member's own persona answer in a category, channel or thread, or take that back."""
        if not await defer(interaction, ephemeral=True):
            return

        def changed(old: GuildSettings) -> GuildSettings:
            channels = old.locked_channels | {channel_id} if locked else old.locked_channels - {channel_id}
            return replace(old, locked_channels=channels)

        after = await self._change(interaction, changed)
        if locked:
            text = _("In {channel} no member's own persona answers any more.").format(channel=f"<#{channel_id}>")
            text = f"{text} {_(_KEPT)}"
        else:
            text = _("{channel} is not locked.").format(channel=f"<#{channel_id}>")
        others = ", ".join(f"<#{each}>" for each in sorted(after.locked_channels)[:20])
        listed = _("-# Locked: {places}.").format(places=others) if others else _("-# Locked: none.")
        await self._context.respond(interaction, f"{text}\n{listed}")

    async def _change(
        self, interaction: Interaction, change: Callable[[GuildSettings], GuildSettings]
    ) -> GuildSettings:
        guild_id = interaction.guild_id or 0
        return await self._context.guild_settings.change(guild_id, change, actor_id=interaction.user.id)


def own_personas_text(settings: GuildSettings) -> str:
    """Who may have a persona of their own in this guild."""
    if settings.own_personas == "members":
        return _("All members may have a persona of their own here.")
    if settings.own_personas == "nobody":
        text = _("No member's own persona answers in this guild any more.")
        return f"{text} {_(_KEPT)}"
    roles = ", ".join(f"<@&{each.role_id}>" for each in settings.roles if each.own_persona)
    text = _("Only members with these roles may have a persona of their own here: {roles}.").format(roles=roles)
    return f"{text} {_(_KEPT)}"
