"""The values that cross the boundary between the database and everybody else.

Knows no SQLAlchemy: the bot may import this module anywhere. Every value is frozen and holds plain Python types.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

PersonaLevel = Literal["default", "guild", "channel", "member"]
StoredLevel = Literal["guild", "channel", "member"]
TurnStatus = Literal["pending", "done", "failed", "interrupted"]
DialogScope = Literal["user", "channel", "thread"]

DIRECT_MESSAGES = 0  # the guild_id of a conversation outside every guild; NULL would never collide in a unique index


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


@dataclass(frozen=True, slots=True)
class BegunTurn:
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
