"""The settings of a guild as its panel shows them: one entry each, in the order of the pages.

A new setting is one entry here or in `limit_entries`, a field of `GuildSettings` and, for `/config reset`, a line in
`bot.cogs.config.changes`. Pure functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any, get_args

from bot.cogs.config.changes import RESETS, change_role
from bot.cogs.config.scopes import SCOPES, scope_note
from bot.cogs.config.text import MEMORY_OFF, MEMORY_ON
from bot.cogs.settings_panel.entries import (
    Channels,
    Control,
    Entry,
    Listed,
    Number,
    Option,
    Options,
    Roles,
    Source,
    Switch,
)
from bot.cogs.settings_panel.languages import language_options
from bot.cogs.settings_panel.limit_entries import filter_entries, limit_entries
from bot.errors import BotError
from bot.guilds.settings.settings_checks import SHORTEST_IDLE_TIME
from bot.i18n.language import gettext as _
from bot.i18n.language import pgettext
from bot.settings import Settings
from bot.text import duration_text
from bot.units import parse_seconds
from models.types import DialogScope, GuildSettings, OwnPersonas, PersonaFace

GuildEntry = Entry[GuildSettings]
_RESETS = {str(name): change for name, change in RESETS.items()}


def guild_pages() -> dict[str, str]:
    """The pages by their names in custom ids, in order."""
    return {
        "talk": _("Conversations"),
        "where": _("Where and who"),
        "replies": _("Replies"),
        "limits": _("Limits of a member"),
        "together": _("Limits of all members together"),
        "safety": _("Safety"),
        "memory": _("Memory"),
    }


def guild_source() -> Source:
    """Where a value of a guild comes from."""
    return Source(
        default=_("the default"),
        chosen=_("chosen by this guild"),
        limit=_("the limit of this bot's owner ({chosen} was chosen)"),
    )


def guild_entries(guild: GuildSettings, operator: Settings) -> tuple[GuildEntry, ...]:
    """All settings of a guild, with the operator's defaults and maxima."""
    return (
        *_conversations(guild, operator),
        *_where_and_who(),
        *_replies(),
        *limit_entries(guild, operator),
        *filter_entries(guild, operator),
        *_memory(operator),
    )


def _conversations(guild: GuildSettings, operator: Settings) -> Iterable[GuildEntry]:
    longest = round(operator.session_ttl.total_seconds())
    shortest = min(round(SHORTEST_IDLE_TIME.total_seconds()), longest)
    yield _entry(
        "scope",
        "talk",
        _("Who shares a conversation"),
        _("Each member alone with me, or all members of a channel together"),
        Options(tuple(Option(scope, *_scope_words(scope)) for scope in get_args(DialogScope)), "member"),
        lambda old: old.dialog_scope,
        lambda old, value: replace(old, dialog_scope=value),
        note=scope_note,
    )
    scopes = tuple(f"<#{channel_id}> `{scope}`" for channel_id, scope in guild.channel_scopes)
    yield _entry(
        "channel_scopes",
        "talk",
        _("Channels where it is different"),
        _("`/config channels scope` changes it for one channel"),
        Listed(scopes, _("none"), "config channels scope"),
        lambda old: old.channel_scopes,
        _not_here,
    )
    yield _number(
        "max_chat_logs",
        "talk",
        _("Exchanges that I keep in mind"),
        _("A message and its answer are one exchange"),
        Number(operator.max_chat_logs, 0, operator.max_chat_logs),
    )
    yield _number(
        "max_reply_tokens",
        "talk",
        _("Longest answer"),
        _("In tokens: four of them are about three words"),
        Number(operator.max_reply_tokens, 1, operator.max_reply_tokens),
    )
    yield _entry(
        "idle_time",
        "talk",
        _("Idle time"),
        _("A conversation ends once nobody has written in it for this long"),
        Number(
            longest,
            shortest,
            longest,
            shown=lambda seconds: duration_text(timedelta(seconds=seconds)),
            read=seconds_in,
            hint="36h",
        ),
        lambda old: None if old.session_ttl is None else round(old.session_ttl.total_seconds()),
        lambda old, value: replace(old, session_ttl=None if value is None else timedelta(seconds=value)),
    )
    yield _number(
        "retention_days",
        "talk",
        _("Days that a conversation is kept after its end"),
        _("With 0 it is deleted soon after its end"),
        Number(operator.retention_days, 0, operator.retention_days),
    )


def _where_and_who() -> Iterable[GuildEntry]:
    yield _entry(
        "channels",
        "where",
        _("Channels in which I answer"),
        _("And in their threads"),
        Channels(_("all channels")),
        lambda old: old.channels,
        lambda old, ids: replace(old, channels=frozenset(ids)),
    )
    yield _entry(
        "roles",
        "where",
        _("Roles that may talk to me"),
        _("Members with any of them"),
        Roles(_("everybody")),
        lambda old: frozenset(role.role_id for role in old.roles if role.allowed),
        lambda old, ids: _with_role_flag(old, ids, "allowed"),
        reset=lambda old: _with_role_flag(old, (), "allowed"),
    )
    yield _entry(
        "own_personas",
        "where",
        _("Personas of members' own"),
        _("Who may have one answer them here"),
        Options(tuple(Option(who, _own_personas_words(who)) for who in get_args(OwnPersonas)), "members"),
        lambda old: old.own_personas,
        _with_own_personas,
    )
    yield _entry(
        "persona_roles",
        "where",
        _("Roles that may have a persona of their own"),
        _("Choosing some allows it to nobody else"),
        Roles(_("none chosen")),
        lambda old: frozenset(role.role_id for role in old.roles if role.own_persona),
        _with_persona_roles,
        reset=RESETS["own_personas"],
    )
    yield _entry(
        "persona_locks",
        "where",
        _("Places where no member's own persona answers"),
        _("Categories, channels and threads"),
        Channels(_("none"), categories=True),
        lambda old: old.locked_channels,
        lambda old, ids: replace(old, locked_channels=frozenset(ids)),
    )


def _replies() -> Iterable[GuildEntry]:
    yield _entry(
        "streaming",
        "replies",
        _("Answers grow while I write them"),
        _("Off: an answer is shown once, when it is complete"),
        Switch(default=True),
        lambda old: old.streaming,
        lambda old, value: replace(old, streaming=value),
    )
    yield _entry(
        "files",
        "replies",
        _("I read files and pictures"),
        _("Off: I answer messages and leave their files aside"),
        Switch(default=True),
        lambda old: old.files,
        lambda old, value: replace(old, files=value),
    )
    yield _entry(
        "persona_face",
        "replies",
        _("How members see which persona answers"),
        _("`/persona face` also says what it needs"),
        Options(tuple(Option(face, *_face_words(face)) for face in get_args(PersonaFace)), "off"),
        lambda old: old.persona_face,
        lambda old, value: replace(old, persona_face=value),
    )
    yield _entry(
        "language",
        "replies",
        _("Language of what I say in public"),
        _("My own words, not the answers of the model"),
        Options(language_options(_("As this guild's own language on Discord")), "auto"),
        lambda old: old.locale or "auto",
        lambda old, value: replace(old, locale=None if value == "auto" else value),
    )


def _memory(operator: Settings) -> Iterable[GuildEntry]:
    yield _entry(
        "memory",
        "memory",
        _("Notes about members"),
        _("Each member switches them on for themselves with `/memory on`"),
        Switch(default=False, unavailable="" if operator.memory else _("the owner of this bot allows none")),
        lambda old: old.memory,
        lambda old, value: replace(old, memory=value),
        note=lambda value: MEMORY_ON if value else MEMORY_OFF,
    )


def _entry(
    name: str,
    page: str,
    title: str,
    about: str,
    control: Control,
    read: Callable[[GuildSettings], Any],
    write: Callable[[GuildSettings, Any], GuildSettings],
    *,
    reset: Callable[[GuildSettings], GuildSettings] | None = None,
    note: Callable[[Any], str] = lambda value: "",
) -> GuildEntry:
    """An entry, with the reset of `/config reset` if it has the same name there."""
    return Entry(name, page, title, about, control, read, write, reset or _RESETS[name], note)


def _number(name: str, page: str, title: str, about: str, control: Number, *, field: str = "") -> GuildEntry:
    """An entry for a number that is a field of the settings."""
    own = field or name
    return _entry(
        name,
        page,
        title,
        about,
        control,
        lambda old: getattr(old, own),
        lambda old, value: replace(old, **{own: value}),
    )


def seconds_in(text: str) -> int:
    """The seconds of a duration that was typed, such as "36h". Raises BotError."""
    try:
        seconds = parse_seconds(text)
    except ValueError:
        seconds = None
    if not isinstance(seconds, float) or seconds > 4e9:
        raise BotError(_("Please write a number with s, m, h, d or w, such as 36h or 7d. Nothing was changed."))
    return round(seconds)


def _not_here(old: GuildSettings, value: Any) -> GuildSettings:
    raise BotError(_("This setting has a command of its own."))


def _with_role_flag(old: GuildSettings, ids: Iterable[int], flag: str) -> GuildSettings:
    wanted = set(ids)
    for role_id in {*wanted, *(role.role_id for role in old.roles)}:
        given = role_id in wanted
        old = change_role(role_id, lambda role, given=given: replace(role, **{flag: given}))(old)  # type: ignore[misc]
    return old


def _with_persona_roles(old: GuildSettings, ids: Iterable[int]) -> GuildSettings:
    wanted = tuple(ids)
    return replace(_with_role_flag(old, wanted, "own_persona"), own_personas="roles" if wanted else "members")


def _with_own_personas(old: GuildSettings, value: OwnPersonas) -> GuildSettings:
    if value == "roles":
        if not any(role.own_persona for role in old.roles):
            raise BotError(_("Please choose the roles in the menu below; that allows it to them alone."))
        return replace(old, own_personas=value)
    return replace(_with_role_flag(old, (), "own_persona"), own_personas=value)


def _scope_words(scope: DialogScope) -> tuple[str, str]:
    return {
        "member": (_("Each member, in the whole guild"), SCOPES["member"]),
        "channel": (_("All members, by channel"), SCOPES["channel"]),
        "thread": (_("All members, by channel and thread"), SCOPES["thread"]),
        "member-channel": (_("Each member, by channel"), SCOPES["member-channel"]),
        "member-thread": (_("Each member, by channel and thread"), SCOPES["member-thread"]),
    }[scope]


def _own_personas_words(who: OwnPersonas) -> str:
    return {
        "members": pgettext("own personas", "All members"),
        "roles": pgettext("own personas", "Members with some roles"),
        "nobody": pgettext("own personas", "Nobody"),
    }[who]


def _face_words(face: PersonaFace) -> tuple[str, str]:
    return {
        "off": (_("Not at all"), _("All answers are mine")),
        "name": (_("By name"), _("In bold above each answer")),
        "profile": (_("As my own profile"), _("The guild's persona as my name and picture, others by name")),
        "webhook": (_("Each under its own name"), _("As a webhook; I need Manage Webhooks")),
    }[face]
