"""A guild's settings as text in Discord's Markdown. Pure functions."""

from __future__ import annotations

from bot.cogs.config.scopes import SCOPES
from bot.cogs.filters.text import filter_lines
from bot.cogs.limits.text import limit_lines
from bot.guilds.limits import capped
from bot.i18n.language import gettext as _
from bot.settings import Settings
from bot.text import duration_text
from models.types import GuildSettings

MEMORY_ON = (
    "Members can now switch on what I remember of them, each for themselves, with `/memory on`. I also keep "
    "summaries of long conversations that everyone here shares."
)
MEMORY_OFF = "Notes that I have are not used any more; members can still read and delete theirs with `/memory`."


def settings_text(guild: GuildSettings, settings: Settings) -> str:
    """A list of all settings: the guild's choice, or the operator's default from `settings`."""
    allowed = [role.role_id for role in guild.roles if role.allowed]
    quotas = [f"<@&{role.role_id}> {role.daily_turns:,}" for role in guild.roles if role.daily_turns is not None]
    lines = [
        f"`max_chat_logs` {_value(guild.max_chat_logs, settings.max_chat_logs)}: exchanges that I keep in mind",
        f"`max_reply_tokens` {_value(guild.max_reply_tokens, settings.max_reply_tokens)}: tokens of my longest answer",
        f"`retention_days` {_value(guild.retention_days, settings.retention_days)}: "
        "days that a conversation is kept after its end",
        f"`scope` **{guild.dialog_scope}**: {SCOPES[guild.dialog_scope]}",
        f"`daily_messages` {_quota(guild.daily_turns, settings.member_daily_messages)}",
        f"`daily_tokens` {_quota(guild.daily_tokens, settings.member_daily_tokens)}",
        f"`memory` {_memory(guild, settings)}",
        *_more_lines(guild, settings),
        f"`channels` {_list('<#{}>', sorted(guild.channels)) or '**all**'}",
        f"`roles` {_list('<@&{}>', allowed) or '**everybody**'}",
    ]
    lines += limit_lines(guild, settings)
    lines += filter_lines(guild, settings)
    if guild.channel_scopes:
        own = ", ".join(f"<#{channel_id}> **{scope}**" for channel_id, scope in guild.channel_scopes)
        lines.append(f"`channels scope` instead of `scope`: {own}")
    if quotas:
        lines.append(f"`roles quota` messages a day instead of `daily_messages`: {', '.join(quotas)}")
    if guild.own_personas != "members":
        who = _list("<@&{}>", [role.role_id for role in guild.roles if role.own_persona])
        who = who if guild.own_personas == "roles" else "**nobody**"
        lines.append(f"`/persona allow` personas of members' own: {who}")
    if guild.locked_channels:
        lines.append(f"`/persona lock` no member's own persona: {_list('<#{}>', sorted(guild.locked_channels))}")
    if guild.persona_face != "off":
        lines.append(f"`/persona face` **{guild.persona_face}**: how members see which persona answers")
    return "\n".join(f"- {line}" for line in lines)


def _more_lines(guild: GuildSettings, settings: Settings) -> list[str]:
    """What was chosen of the settings that most guilds leave as they are."""
    lines = []
    if guild.session_ttl is not None:
        idle_time = duration_text(min(guild.session_ttl, settings.session_ttl))
        lines.append(_("`idle_time` **{time}**: after so long a rest a conversation ends").format(time=idle_time))
    if not guild.streaming:
        lines.append(_("`streaming` **off**: an answer is shown once, when it is complete"))
    if not guild.files:
        lines.append(_("`files` **off**: I read no files and pictures"))
    if guild.locale is not None:
        lines.append(_("`language` **{language}**: of what I say in public").format(language=guild.locale))
    return lines


def _value(chosen: int | None, default: int) -> str:
    if chosen is None:
        return f"**{default:,}** (the default)"
    if chosen > default:
        return f"**{default:,}** ({chosen:,} was chosen; the owner of this bot allows less now)"
    return f"**{chosen:,}** (chosen; {default:,} is the default and the most)"


def _memory(guild: GuildSettings, settings: Settings) -> str:
    if not settings.memory:
        return "**off**: the owner of this bot allows none"
    return (
        "**on**: I take notes about members who ask me to" if guild.memory else "**off**: I take no notes about members"
    )


def _quota(chosen: int | None, most: int | None) -> str:
    applies = capped(chosen, most)
    return "**no limit** for a member" if applies is None else f"**{applies:,}** for each member, from 00:00 UTC on"


def _list(pattern: str, ids: list[int]) -> str:
    return ", ".join(pattern.format(each) for each in ids)
