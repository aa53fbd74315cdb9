"""A guild's settings as a file: written with the names of channels and roles, read strictly. Pure functions.

A file says nothing of members. What it leaves out stays as it is in the guild that reads it; null is the default.
Channels and roles that the guild does not have are left out and named: a list of none but such stays as it was, since
an empty one would open what the file meant to close.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from bot.errors import Hint
from bot.guilds.settings.limits import (
    MAX_DAILY,
    MAX_MINUTE_MESSAGES,
    MAX_RUNNING_REPLIES,
    OF_ROLES,
    OPERATORS,
    shown_name,
)
from bot.i18n.catalogues import translations
from bot.i18n.language import gettext as _
from bot.safety.moderation import MAX_CATEGORIES, category_named
from bot.safety.words import MAX_WORDS, listed_words
from models.types import DialogScope, GuildSettings, OwnPersonas, PersonaFace, RolePolicy

VERSION: Literal[1] = 1
MAX_BYTES = 512 << 10
"""More than the longest lists and words take, so that every file that was made can be read."""
MAX_LISTED = 100
_MAX_NAMED_KEYS, _MAX_KEY_CHARS = 5, 60

Snowflake = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,18}$")]
Name = Annotated[str, Field(max_length=200)]
Days = Annotated[int, Field(ge=0, le=36_525)]
PerMinute = Annotated[int, Field(ge=1, le=MAX_MINUTE_MESSAGES)]
AtOnce = Annotated[int, Field(ge=1, le=MAX_RUNNING_REPLIES)]
PerDay = Annotated[int, Field(ge=0, le=MAX_DAILY)]


def _checked_word(text: str) -> str:
    usable, unusable = listed_words(text)
    if unusable or not usable:
        raise ValueError("no word that can be filtered")
    return text


def _words(given: list[str]) -> list[str]:
    """Each once, as they are kept."""
    return list(dict.fromkeys(word for text in given for word in listed_words(text)[0]))


def _category(text: str) -> str:
    name = category_named(text)
    if name is None:
        raise ValueError("no name of a category")
    return name


Words = Annotated[
    list[Annotated[str, Field(max_length=1000), AfterValidator(_checked_word)]],
    Field(max_length=MAX_WORDS),
    AfterValidator(_words),
]
Thresholds = Annotated[
    dict[
        Annotated[str, Field(max_length=60), AfterValidator(_category)],
        Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)],
    ],
    Field(max_length=MAX_CATEGORIES),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Channel(_Strict):
    """A channel, by its id; the name is for people."""

    id: Snowflake
    name: Name = ""


class ScopedChannel(Channel):
    """A channel with a scope of its own."""

    scope: DialogScope


class Role(_Strict):
    """What applies to a role."""

    id: Snowflake
    name: Name = ""
    may_chat: bool = False
    may_have_persona: bool = False
    minute_messages: PerMinute | None = None
    running_replies: AtOnce | None = None
    daily_messages: PerDay | None = None
    daily_tokens: PerDay | None = None


class Listed(_Strict):
    """The settings, under the names that `/config` has for them; `idle_time` in seconds."""

    scope: DialogScope = "member"
    max_chat_logs: Annotated[int, Field(ge=0, le=1000)] | None = None
    max_reply_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    idle_time: Annotated[int, Field(ge=1, le=36_525 * 86_400)] | None = None
    retention_days: Days | None = None
    minute_messages: PerMinute | None = None
    running_replies: AtOnce | None = None
    daily_messages: PerDay | None = None
    daily_tokens: PerDay | None = None
    guild_minute_messages: PerMinute | None = None
    guild_running_replies: AtOnce | None = None
    guild_daily_messages: PerDay | None = None
    guild_daily_tokens: PerDay | None = None
    own_personas: OwnPersonas = "members"
    persona_face: PersonaFace = "off"
    streaming: bool = True
    files: bool = True
    memory: bool = False
    language: Annotated[str, Field(max_length=10)] | None = None
    filter_words: Words = []
    moderation: bool = False
    moderation_thresholds: Thresholds = {}
    channels: Annotated[list[Channel], Field(max_length=MAX_LISTED)] = []
    channel_scopes: Annotated[list[ScopedChannel], Field(max_length=MAX_LISTED)] = []
    persona_locks: Annotated[list[Channel], Field(max_length=MAX_LISTED)] = []
    roles: Annotated[list[Role], Field(max_length=MAX_LISTED)] = []


class _File(_Strict):
    guildllama_settings: Literal[1]
    guild: Channel | None = None
    exported_at: Annotated[str, Field(max_length=40)] = ""
    settings: Listed


@dataclass(frozen=True, slots=True)
class Imported:
    """What a guild's settings would be with a file, and what of the file the guild does not have."""

    settings: GuildSettings
    skipped: tuple[str, ...]
    """Names of the channels and roles that are left out."""
    kept: tuple[str, ...]
    """Names of the lists that stay as they were, as nothing on them exists here."""


def as_file(
    settings: GuildSettings, *, guild_id: int, guild_name: str, name_of: Callable[[int], str], at: datetime
) -> bytes:
    """The settings as a file. `name_of`: of a channel or role; "" if it is not known."""
    listed = Listed(
        scope=settings.dialog_scope,
        max_chat_logs=settings.max_chat_logs,
        max_reply_tokens=settings.max_reply_tokens,
        idle_time=None if settings.session_ttl is None else round(settings.session_ttl.total_seconds()),
        retention_days=settings.retention_days,
        **{shown_name(name): getattr(settings, name) for name in OPERATORS},
        own_personas=settings.own_personas,
        persona_face=settings.persona_face,
        streaming=settings.streaming,
        files=settings.files,
        memory=settings.memory,
        language=settings.locale,
        filter_words=list(settings.filter_words),
        moderation=settings.moderation,
        moderation_thresholds=dict(settings.moderation_thresholds),
        channels=[Channel(id=str(each), name=name_of(each)) for each in sorted(settings.channels)],
        channel_scopes=[
            ScopedChannel(id=str(each), name=name_of(each), scope=scope) for each, scope in settings.channel_scopes
        ],
        persona_locks=[Channel(id=str(each), name=name_of(each)) for each in sorted(settings.locked_channels)],
        roles=[
            Role(
                id=str(role.role_id),
                name=name_of(role.role_id),
                may_chat=role.allowed,
                may_have_persona=role.own_persona,
                **{shown_name(name): getattr(role, name) for name in OF_ROLES},
            )
            for role in settings.roles
        ],
    )
    file = _File(
        guildllama_settings=VERSION,
        guild=Channel(id=str(guild_id), name=guild_name),
        exported_at=f"{at:%Y-%m-%dT%H:%M:%SZ}",
        settings=listed,
    )
    return (json.dumps(file.model_dump(), indent=2, ensure_ascii=False) + "\n").encode()


def read_file(data: bytes) -> Listed:
    """The settings in a file. Raises Hint, which names what does not fit."""
    if len(data) > MAX_BYTES:
        raise Hint(_("This file is too large for settings."))
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_without_repeats, parse_constant=_refuse)
    except _Repeated as repeated:
        raise Hint(_("The key {key} stands in this file twice.").format(key=_key(repeated.args[0]))) from None
    except (ValueError, RecursionError):
        raise Hint(_("This is no file that `/config export` has made: it is not JSON.")) from None
    version = value.get("guildllama_settings") if isinstance(value, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise Hint(_("This is no file that `/config export` has made."))
    if version != VERSION:
        raise Hint(_("This file is of a version that I do not know. I read version {number}.").format(number=VERSION))
    try:
        found = _File.model_validate(value).settings
    except ValidationError as error:
        raise Hint(_problem(error)) from None
    if found.language is not None and found.language not in translations():
        raise Hint(_("The value of {key} does not fit.").format(key="`settings.language`"))
    return found


def _problem(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    unknown = [_path(each["loc"]) for each in details if each["type"] == "extra_forbidden"]
    if unknown:
        named = ", ".join(unknown[:_MAX_NAMED_KEYS])
        return _("I do not know these keys, so I took nothing from this file: {keys}.").format(keys=named)
    return _("The value of {key} does not fit.").format(key=_path(details[0]["loc"]))


def _path(location: Iterable[int | str]) -> str:
    return _key(".".join(str(each) for each in location))


def _key(name: str) -> str:
    """A key of a stranger's file, so that it looks like nothing else."""
    kept = "".join(char for char in name if char.isprintable() and char != "`")
    return f"`{kept[:_MAX_KEY_CHARS] or '?'}`"


class _Repeated(Exception):
    """A key that stands twice in one object."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Repeated(key)
        found[key] = value
    return found


def _refuse(constant: str) -> None:
    raise ValueError("no setting is such a number")  # NaN and Infinity, which Python would take


def imported(
    file: Listed, old: GuildSettings, *, channels: Callable[[int], bool], roles: Callable[[int], bool]
) -> Imported:
    """The settings with what stands in the file. `channels`, `roles`: whether the guild has one of this id."""
    given = file.model_fields_set
    plain: Mapping[str, tuple[str, Any]] = {
        "scope": ("dialog_scope", file.scope),
        "max_chat_logs": ("max_chat_logs", file.max_chat_logs),
        "max_reply_tokens": ("max_reply_tokens", file.max_reply_tokens),
        "idle_time": ("session_ttl", None if file.idle_time is None else timedelta(seconds=file.idle_time)),
        "retention_days": ("retention_days", file.retention_days),
        **{shown_name(name): (name, getattr(file, shown_name(name))) for name in OPERATORS},
        "own_personas": ("own_personas", file.own_personas),
        "persona_face": ("persona_face", file.persona_face),
        "streaming": ("streaming", file.streaming),
        "files": ("files", file.files),
        "memory": ("memory", file.memory),
        "language": ("locale", file.language),
        "filter_words": ("filter_words", tuple(file.filter_words)),
        "moderation": ("moderation", file.moderation),
        "moderation_thresholds": ("moderation_thresholds", tuple(sorted(file.moderation_thresholds.items()))),
    }
    changes = {field: value for key, (field, value) in plain.items() if key in given}
    skipped: list[str] = []
    kept: list[str] = []

    def existing(key: str, listed: Iterable[Any], has: Callable[[int], bool]) -> list[Any] | None:
        """Those of a list that exist here; None if the list stays as it was."""
        if key not in given:
            return None
        every = list(listed)
        here = [each for each in every if has(int(each.id))]
        skipped.extend(_named(each) for each in every if not has(int(each.id)))
        if every and not here:
            kept.append(key)
            return None
        return here

    if (found := existing("channels", file.channels, channels)) is not None:
        changes["channels"] = frozenset(int(each.id) for each in found)
    if (found := existing("channel_scopes", file.channel_scopes, channels)) is not None:
        changes["channel_scopes"] = tuple(sorted({int(each.id): each.scope for each in found}.items()))
    if (found := existing("persona_locks", file.persona_locks, channels)) is not None:
        changes["locked_channels"] = frozenset(int(each.id) for each in found)
    if (found := existing("roles", file.roles, roles)) is not None:
        policies = {int(each.id): _policy(each) for each in found}
        said = (policies[role_id] for role_id in sorted(policies) if policies[role_id] != RolePolicy(role_id))
        changes["roles"] = tuple(said)
    new = replace(old, **changes)
    if _opens_up(file.roles, old, new, "roles" in given):
        kept.append("roles")
        new = replace(new, roles=old.roles)
    if new.own_personas == "roles" and not any(role.own_persona for role in new.roles):
        new = replace(new, own_personas=old.own_personas)
        kept.append("own_personas")
    return Imported(new, tuple(dict.fromkeys(skipped)), tuple(dict.fromkeys(kept)))


def _policy(role: Role) -> RolePolicy:
    numbers: dict[str, Any] = {name: getattr(role, shown_name(name)) for name in OF_ROLES}
    return RolePolicy(int(role.id), role.may_chat, own_persona=role.may_have_persona, **numbers)


def _opens_up(listed: Iterable[Role], old: GuildSettings, new: GuildSettings, given: bool) -> bool:
    """Whether the file lets only some roles chat, and none of them exists here."""
    return given and any(role.may_chat for role in listed) and not any(role.allowed for role in new.roles)


def _named(each: Channel | Role) -> str:
    """A channel or role that does not exist here, by its name in the file and its id."""
    kept = "".join(char for char in each.name if char.isprintable() and char not in "`<>@*_~|[]()\\")
    return f"{kept[:40]} ({each.id})" if kept.strip() else each.id
