"""Arguments and results of the queries: frozen dataclasses of plain Python types.

Knows no SQLAlchemy, so any module of the bot may import it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

PersonaLevel = Literal["default", "guild", "channel", "member"]
StoredLevel = Literal["guild", "channel", "member"]
TurnStatus = Literal["pending", "done", "failed", "interrupted"]
DialogScope = Literal["user", "channel", "thread"]

DIRECT_MESSAGES = 0  # guild_id of direct messages; not NULL, which a unique index never treats as equal
LARGEST_ID = (1 << 63) - 1  # of a signed 64-bit column; snowflakes are below it


@dataclass(frozen=True, slots=True)
class DialogKey:
    """The tenant key: whose dialog it is. Every query of a tenant's rows takes one. All ids are snowflakes.

    `channel_id` is 0 unless the guild chose one dialog per channel or thread.
    """

    guild_id: int
    user_id: int
    channel_id: int = 0


@dataclass(frozen=True, slots=True)
class Pair:
    """One finished turn: what the member wrote, and its active reply."""

    turn_id: int
    user: str
    reply: str


@dataclass(frozen=True, slots=True)
class PersonaText:
    """The system prompt that applies, and the level that it is set at."""

    level: PersonaLevel
    name: str
    prompt: str
    version: int


@dataclass(frozen=True, slots=True)
class DialogSettings:
    """Settings of one dialog, merged from the guild's and the member's. None: the operator's default applies."""

    max_chat_logs: int | None = None
    max_reply_tokens: int | None = None
    retention_days: int | None = None
    session_ttl: timedelta | None = None
    locale: str | None = None
    opted_out: bool = False
    streaming: bool = True


@dataclass(frozen=True, slots=True)
class TurnSnapshot:
    """A turn that needs a reply, and everything its prompt is built from, as one transaction read it.

    `turn_id` and `dialog_id` are 0 for a member who opted out: the turn is not stored, nor will its reply be.
    """

    turn_id: int
    dialog_id: int
    text: str
    persona: PersonaText | None
    history: tuple[Pair, ...]
    settings: DialogSettings = DialogSettings()


@dataclass(frozen=True, slots=True)
class TurnResult:
    """A generated reply, as the finish transaction stores it. Times in milliseconds since the request."""

    reply: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    first_token_ms: int
    total_ms: int


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the replies of a regenerated turn; `position` counts from 1."""

    position: int
    reply: str
    active: bool


@dataclass(frozen=True, slots=True)
class PersonaVersionInfo:
    """One stored version of a persona, as /persona lists them for a rollback."""

    version: int
    name: str
    prompt: str
    author_id: int | None
    created_at: datetime
    active: bool


@dataclass(frozen=True, slots=True)
class RolePolicy:
    """A guild's rules for one of its roles."""

    role_id: int
    allowed: bool = False
    daily_turns: int | None = None


@dataclass(frozen=True, slots=True)
class GuildSettings:
    """A guild's settings. None: the operator's default applies. No channel listed, or no role allowed: all may chat."""

    dialog_scope: DialogScope = "user"
    max_chat_logs: int | None = None
    max_reply_tokens: int | None = None
    retention_days: int | None = None
    session_ttl: timedelta | None = None
    daily_turns: int | None = None
    daily_tokens: int | None = None
    own_personas: bool = True
    streaming: bool = True
    locale: str | None = None
    channels: frozenset[int] = frozenset()
    roles: tuple[RolePolicy, ...] = ()


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """A member's settings in one guild, and whether an admin blocked the member."""

    max_chat_logs: int | None = None
    retention_days: int | None = None
    private: bool | None = None
    locale: str | None = None
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """A member's finished turns and tokens of one UTC day."""

    day: date
    turns: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One audit log entry: an action of an admin or the operator. `details` is JSON."""

    entry_id: int
    guild_id: int | None
    actor_id: int | None
    target_id: int | None
    action: str
    details: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class InterruptedReply:
    """A deferred reply that a crash left unfinished, and what is needed to edit its message."""

    turn_id: int
    application_id: int | None
    reply_token: str
    started_at: datetime
