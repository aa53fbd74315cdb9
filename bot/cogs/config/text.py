"""A guild's settings as text in Discord's Markdown. Pure functions."""

from __future__ import annotations

from bot.cogs.config.model_text import model_line
from bot.cogs.config.scopes import SCOPES
from bot.cogs.filters.text import filter_lines
from bot.cogs.limits.text import limit_lines
from bot.guilds.settings.limits import capped
from bot.i18n.language import N_
from bot.i18n.language import gettext as _
from bot.settings import Settings
from bot.text import duration_text
from models.types import GuildSettings

MEMORY_ON = N_(
    "Members can now switch on what I remember of them, each for themselves, with `/memory on`. I also keep "
    "summaries of long conversations that everyone here shares."
)
MEMORY_OFF = N_("Notes that I have are not used any more; members can still read and delete theirs with `/memory`.")


def settings_text(guild: GuildSettings, settings: Settings) -> str:
    """A list of all settings: the guild's choice, or the operator's default from `settings`."""
    allowed = [role.role_id for role in guild.roles if role.allowed]
    quotas = [f"<@&{role.role_id}> {role.daily_turns:,}" for role in guild.roles if role.daily_turns is not None]
    lines = [
        _("`max_chat_logs` {value}: exchanges that I keep in mind").format(
            value=_value(guild.max_chat_logs, settings.max_chat_logs)
        ),
        _("`max_reply_tokens` {value}: tokens of my longest answer").format(
            value=_value(guild.max_reply_tokens, settings.max_reply_tokens)
        ),
        _("`retention_days` {value}: days that a conversation is kept after its end").format(
            value=_value(guild.retention_days, settings.retention_days)
        ),
        f"`scope` **{guild.dialog_scope}**: {_(SCOPES[guild.dialog_scope])}",
        f"`daily_messages` {_quota(guild.daily_turns, settings.member_daily_messages)}",
        f"`daily_tokens` {_quota(guild.daily_tokens, settings.member_daily_tokens)}",
        f"`memory` {_memory(guild, settings)}",
        *_more_lines(guild, settings),
        f"`channels` {_list('<#{}>', sorted(guild.channels)) or _('**all**')}",
        f"`roles` {_list('<@&{}>', allowed) or _('**everybody**')}",
    ]
    lines += limit_lines(guild, settings)
    lines += filter_lines(guild, settings)
    if guild.channel_scopes:
        own = ", ".join(f"<#{channel_id}> **{scope}**" for channel_id, scope in guild.channel_scopes)
        lines.append(_("`channels scope` instead of `scope`: {scopes}").format(scopes=own))
    if quotas:
        text = _("`roles quota` messages a day instead of `daily_messages`: {quotas}")
        lines.append(text.format(quotas=", ".join(quotas)))
    if guild.own_personas != "members":
        who = _list("<@&{}>", [role.role_id for role in guild.roles if role.own_persona])
        who = who if guild.own_personas == "roles" else _("**nobody**")
        lines.append(_("`/persona allow` personas of members' own: {who}").format(who=who))
    if guild.locked_channels:
        text = _("`/persona lock` no member's own persona: {places}")
        lines.append(text.format(places=_list("<#{}>", sorted(guild.locked_channels))))
    if guild.persona_face != "off":
        text = _("`/persona face` **{face}**: how members see which persona answers")
        lines.append(text.format(face=guild.persona_face))
    return "\n".join(f"- {line}" for line in lines)


def _more_lines(guild: GuildSettings, settings: Settings) -> list[str]:
    """What was chosen of the settings that most guilds leave as they are."""
    lines = [model_line(guild, settings)] if settings.listed_models or guild.model is not None else []
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
        return _("**{default:,}** (the default)").format(default=default)
    if chosen > default:
        text = _("**{default:,}** ({chosen:,} was chosen; the owner of this bot allows less now)")
    else:
        text = _("**{chosen:,}** (chosen; {default:,} is the default and the most)")
    return text.format(default=default, chosen=chosen)


def _memory(guild: GuildSettings, settings: Settings) -> str:
    if not settings.memory:
        return _("**off**: the owner of this bot allows none")
    if guild.memory:
        return _("**on**: I take notes about members who ask me to")
    return _("**off**: I take no notes about members")


def _quota(chosen: int | None, most: int | None) -> str:
    applies = capped(chosen, most)
    if applies is None:
        return _("**no limit** for a member")
    return _("**{number:,}** for each member, from 00:00 UTC on").format(number=applies)


def _list(pattern: str, ids: list[int]) -> str:
    return ", ".join(pattern.format(each) for each in ids)
