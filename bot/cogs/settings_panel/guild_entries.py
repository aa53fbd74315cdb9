"""The settings of a guild as its panel shows them: one entry each, in the order of the pages.

A new setting is one entry here, in `access_entries` or in `limit_entries`, a field of `GuildSettings` and, for
`/config reset`, a line in `bot.cogs.config.changes`. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import get_args

from bot.cogs.config.changes import RESETS
from bot.cogs.config.model_text import MODEL_CHOSEN, model_control
from bot.cogs.config.scopes import SCOPES, scope_note
from bot.cogs.config.text import MEMORY_OFF, MEMORY_ON
from bot.cogs.settings_panel.access_entries import access_entries
from bot.cogs.settings_panel.entries import Entry, Listed, Number, Option, Options, Source, Switch
from bot.cogs.settings_panel.field_entries import GuildEntry, field_entry, listed_entry
from bot.cogs.settings_panel.languages import AUTO, language_options
from bot.cogs.settings_panel.limit_entries import filter_entries, limit_entries
from bot.errors import BotError
from bot.guilds.settings.settings_checks import SHORTEST_IDLE_TIME
from bot.i18n.language import gettext as _
from bot.settings import Settings
from bot.settings.listed_models import DEFAULT_MODEL
from bot.settings.units import parse_seconds
from bot.text import duration_text
from models.types import DialogScope, GuildSettings, PersonaFace


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
        *access_entries(),
        *_replies(guild, operator),
        *limit_entries(guild, operator),
        *filter_entries(guild, operator),
        *_memory(operator),
    )


def _conversations(guild: GuildSettings, operator: Settings) -> Iterable[GuildEntry]:
    longest = round(operator.session_ttl.total_seconds())
    shortest = min(round(SHORTEST_IDLE_TIME.total_seconds()), longest)
    yield field_entry(
        "scope",
        "talk",
        _("Who shares a conversation"),
        _("Each member alone with me, or all members of a channel together"),
        Options(tuple(Option(scope, *_scope_words(scope)) for scope in get_args(DialogScope)), "member"),
        field="dialog_scope",
        note=scope_note,
    )
    yield listed_entry(
        "channel_scopes",
        "talk",
        _("Channels where it is different"),
        _("`/config channels scope` changes it for one channel"),
        Listed(tuple(f"<#{channel_id}> `{scope}`" for channel_id, scope in guild.channel_scopes), _("none")),
    )
    yield field_entry(
        "max_chat_logs",
        "talk",
        _("Exchanges that I keep in mind"),
        _("A message and its answer are one exchange"),
        Number(operator.max_chat_logs, 0, operator.max_chat_logs),
    )
    yield field_entry(
        "max_reply_tokens",
        "talk",
        _("Longest answer"),
        _("In tokens: four of them are about three words"),
        Number(operator.max_reply_tokens, 1, operator.max_reply_tokens),
    )
    yield Entry(
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
        RESETS["idle_time"],
    )
    yield field_entry(
        "retention_days",
        "talk",
        _("Days that a conversation is kept after its end"),
        _("With 0 it is deleted soon after its end"),
        Number(operator.retention_days, 0, operator.retention_days),
    )


def _replies(guild: GuildSettings, operator: Settings) -> Iterable[GuildEntry]:
    control = model_control(guild, operator)
    unchosen = DEFAULT_MODEL if isinstance(control, Options) else ""
    yield Entry(
        "model",
        "replies",
        _("Model that answers"),
        _("`/config model` changes it too"),
        control,
        lambda old: old.model or unchosen,
        lambda old, value: replace(old, model=None if value == DEFAULT_MODEL else value),
        lambda old: replace(old, model=None),
        note=lambda value: "" if value == unchosen else _(MODEL_CHOSEN),
    )
    yield field_entry(
        "streaming",
        "replies",
        _("Answers grow while I write them"),
        _("Off: an answer is shown once, when it is complete"),
        Switch(default=True),
    )
    yield field_entry(
        "files",
        "replies",
        _("I read files and pictures"),
        _("Off: I answer messages and leave their files aside"),
        Switch(default=True),
    )
    yield field_entry(
        "persona_face",
        "replies",
        _("How members see which persona answers"),
        _("`/persona face` also says what it needs"),
        Options(tuple(Option(face, *_face_words(face)) for face in get_args(PersonaFace)), "off"),
    )
    yield Entry(
        "language",
        "replies",
        _("Language of what I say in public"),
        _("My own words, not the answers of the model"),
        Options(language_options(_("As this guild's own language on Discord")), AUTO),
        lambda old: old.locale or AUTO,
        lambda old, value: replace(old, locale=None if value == AUTO else value),
        RESETS["language"],
    )


def _memory(operator: Settings) -> Iterable[GuildEntry]:
    yield field_entry(
        "memory",
        "memory",
        _("Notes about members"),
        _("Each member switches them on for themselves with `/memory on`"),
        Switch(default=False, unavailable="" if operator.memory else _("the owner of this bot allows none")),
        note=lambda value: _(MEMORY_ON if value else MEMORY_OFF),
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


def _scope_words(scope: DialogScope) -> tuple[str, str]:
    title = {
        "member": _("Each member, in the whole guild"),
        "channel": _("All members, by channel"),
        "thread": _("All members, by channel and thread"),
        "member-channel": _("Each member, by channel"),
        "member-thread": _("Each member, by channel and thread"),
    }[scope]
    return title, _(SCOPES[scope])


def _face_words(face: PersonaFace) -> tuple[str, str]:
    return {
        "off": (_("Not at all"), _("All answers are mine")),
        "name": (_("By name"), _("In bold above each answer")),
        "profile": (_("As my own profile"), _("The guild's persona as my name and picture, others by name")),
        "webhook": (_("Each under its own name"), _("As a webhook; I need Manage Webhooks")),
    }[face]
