"""The values that cross the boundary between the database and everybody else.

Knows no SQLAlchemy: the bot may import this module anywhere. Every value is frozen and holds plain Python types.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

PersonaLevel = Literal["default", "guild", "channel", "member"]
StoredLevel = Literal["guild", "channel", "member"]
TurnStatus = Literal["pending", "done", "failed", "interrupted"]
DialogScope = Literal["user", "channel", "thread"]

DIRECT_MESSAGES = 0  # the guild_id of a conversation outside every guild; NULL would never collide in a unique index
LARGEST_ID = (1 << 63) - 1  # a database's integers; snowflakes stay below it


@dataclass(frozen=True, slots=True)
class DialogKey:
    """Whose conversation it is. Every query of a tenant's rows takes one; ids are snowflakes, never names.

    `channel_id` stays 0 unless the guild chose one dialog a channel or thread.
    """

    guild_id: int
    user_id: int
    channel_id: int = 0


@dataclass(frozen=True, slots=True)
class Pair:
    """One finished turn: what the member wrote and the reply that is remembered for it."""

    turn_id: int
    user: str
    reply: str


@dataclass(frozen=True, slots=True)
class PersonaText:
    """The system prompt in force, and the level it comes from."""

    level: PersonaLevel
    name: str
    prompt: str
    version: int


@dataclass(frozen=True, slots=True)
class DialogSettings:
    """What the guild and the member chose for this dialog. None means: the operator's default."""

    max_chat_logs: int | None = None
    max_reply_tokens: int | None = None
    retention_days: int | None = None
    session_ttl: timedelta | None = None
    locale: str | None = None
    opted_out: bool = False
    streaming: bool = True


@dataclass(frozen=True, slots=True)
class PendingTurnRow:
    """What T1 returns: the pending turn and the immutable snapshot that its prompt is built from.

    `turn_id` is 0 for a member who opted out: nothing of the turn is stored, and finishing it remembers nothing.
    """

    turn_id: int
    dialog_id: int
    persona: PersonaText | None
    history: tuple[Pair, ...]
    settings: DialogSettings = DialogSettings()


@dataclass(frozen=True, slots=True)
class TurnResult:
    """What T2 stores."""

    reply: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    first_token_ms: int
    total_ms: int


@dataclass(frozen=True, slots=True)
class RegenerationRow:
    """What regenerating starts from: the finished turn, its text, and the history before it."""

    turn_id: int
    dialog_id: int
    text: str
    persona: PersonaText | None
    history: tuple[Pair, ...]
    settings: DialogSettings = DialogSettings()


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the replies of a regenerated turn."""

    position: int
    reply: str
    active: bool


@dataclass(frozen=True, slots=True)
class PersonaVersionInfo:
    """One stored version of a persona, for the list that a rollback chooses from."""

    version: int
    name: str
    prompt: str
    author_id: int | None
    created_at: datetime
    active: bool


@dataclass(frozen=True, slots=True)
class RolePolicy:
    """What a guild says about one of its roles."""

    role_id: int
    allowed: bool = False
    daily_turns: int | None = None


@dataclass(frozen=True, slots=True)
class GuildSettings:
    """What the admins of a guild chose. None means: the operator's default. No channels or roles listed means all."""

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
    """What a member chose for one guild, and whether an admin has blocked them."""

    max_chat_logs: int | None = None
    retention_days: int | None = None
    private: bool | None = None
    locale: str | None = None
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Finished turns and tokens of one UTC day."""

    day: date
    turns: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One act of an admin or the operator."""

    entry_id: int
    guild_id: int | None
    actor_id: int | None
    target_id: int | None
    action: str
    details: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class CutOffReply:
    """A waiting message whose turn died with its process, and what it takes to edit it."""

    turn_id: int
    application_id: int | None
    reply_token: str
    begun_at: datetime
