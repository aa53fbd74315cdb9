"""What stands in a file of settings, and which setting of a guild each key is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bot.guilds.settings.limits import MAX_DAILY, MAX_MINUTE_MESSAGES, MAX_RUNNING_REPLIES, OPERATORS, shown_name
from bot.guilds.settings.settings_checks import MAX_LISTED
from bot.safety.moderation import MAX_CATEGORIES, category_named
from bot.safety.words import MAX_WORDS, listed_words
from bot.settings.listed_models import MAX_NAME_CHARS
from models.types import DialogScope, OwnPersonas, PersonaFace

VERSION: Literal[1] = 1
MAX_BYTES = 512 << 10
"""More than the longest lists and words take, so that every file that was made can be read."""

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
    model: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)] | None = None
    language: Annotated[str, Field(max_length=10)] | None = None
    filter_words: Words = []
    moderation: bool = False
    moderation_thresholds: Thresholds = {}
    channels: Annotated[list[Channel], Field(max_length=MAX_LISTED)] = []
    channel_scopes: Annotated[list[ScopedChannel], Field(max_length=MAX_LISTED)] = []
    persona_locks: Annotated[list[Channel], Field(max_length=MAX_LISTED)] = []
    roles: Annotated[list[Role], Field(max_length=MAX_LISTED)] = []


class SettingsFile(_Strict):
    """The whole file."""

    guildllama_settings: Literal[1]
    guild: Channel | None = None
    exported_at: Annotated[str, Field(max_length=40)] = ""
    settings: Listed


FIELDS: Mapping[str, str] = {
    "scope": "dialog_scope",
    "idle_time": "session_ttl",
    "language": "locale",
    **{shown_name(name): name for name in OPERATORS},
    **{
        name: name
        for name in (
            "max_chat_logs",
            "max_reply_tokens",
            "retention_days",
            "own_personas",
            "persona_face",
            "streaming",
            "files",
            "memory",
            "model",
            "filter_words",
            "moderation",
            "moderation_thresholds",
        )
    },
}
"""The field of `GuildSettings` that each key is; lists of channels and roles are not among them."""
Convert = Callable[[Any], Any]
_TO_FILE: Mapping[str, Convert] = {
    "idle_time": lambda ttl: None if ttl is None else round(ttl.total_seconds()),
    "filter_words": list,
    "moderation_thresholds": dict,
}
_FROM_FILE: Mapping[str, Convert] = {
    "idle_time": lambda seconds: None if seconds is None else timedelta(seconds=seconds),
    "filter_words": tuple,
    "moderation_thresholds": lambda thresholds: tuple(sorted(thresholds.items())),
}


def to_file(key: str, value: Any) -> Any:
    """A setting as it stands in the file."""
    return _TO_FILE[key](value) if key in _TO_FILE else value


def from_file(key: str, value: Any) -> Any:
    """What stands in the file as a setting."""
    return _FROM_FILE[key](value) if key in _FROM_FILE else value
