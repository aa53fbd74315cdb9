"""What the admins of a guild see and do: blocks, deletions, reports, figures, pages of the audit log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal

PurgeKind = Literal["conversations", "memory", "personas", "everything"]


@dataclass(frozen=True, slots=True)
class Block:
    """A member who may not talk with the bot in a guild. `until`: when it ends by itself; None: for good."""

    user_id: int
    blocked_at: datetime
    until: datetime | None = None
    blocked_by: int | None = None
    reason: str | None = field(default=None, repr=False)

    def holds(self, now: datetime) -> bool:
        """Whether it has not ended."""
        return self.until is None or self.until > now


@dataclass(frozen=True, slots=True)
class PurgeScope:
    """What an admin wants deleted in their guild: of everyone or one member, and only what is older than a moment.

    `counted_at`: what was begun after this moment is not meant.
    """

    kind: PurgeKind
    counted_at: datetime
    member_id: int | None = None
    older_than: datetime | None = None

    def has(self, kind: PurgeKind) -> bool:
        """Whether this kind of thing is meant."""
        return self.kind in (kind, "everything")


@dataclass(frozen=True, slots=True)
class PurgeCounts:
    """How much of each kind there is, or was deleted."""

    dialogs: int = 0
    pairs: int = 0
    facts: int = 0
    summaries: int = 0
    personas: int = 0

    @property
    def total(self) -> int:
        """What an admin types to confirm. Pairs and summaries are parts of conversations."""
        return self.dialogs + self.facts + self.personas


@dataclass(frozen=True, slots=True)
class DuePurge:
    """A deletion that can no longer be taken back."""

    purge_id: int
    guild_id: int


@dataclass(frozen=True, slots=True)
class ReportedAnswer:
    """A copy of an answer with what it answered: what a report keeps."""

    question: str = field(repr=False)
    reply: str = field(repr=False)
    prompt: Sequence[Mapping[str, object]] | None = field(default=None, repr=False)
    """The messages as they could be built again."""
    exact: bool = False
    """Whether they are those that were sent."""
    speakers: frozenset[int] = frozenset()
    """Others than the asker whose words stand in the prompt."""


@dataclass(frozen=True, slots=True)
class ReportLine:
    """A report in the list."""

    report_id: int
    channel_id: int
    author_id: int
    reporter_id: int | None
    created_at: datetime
    closed_at: datetime | None
    closed_by: int | None
    reason: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ReportDetails:
    """A report with its copy."""

    line: ReportLine
    answer: ReportedAnswer


ReportOutcome = Literal["stored", "too many", "again", "opted out", "gone"]


@dataclass(frozen=True, slots=True)
class DayFigures:
    """The use of a guild on one UTC day."""

    day: date
    messages: int
    """As limits count them: with the further replies that members had given to a message."""
    members: int
    tokens: int


@dataclass(frozen=True, slots=True)
class AnswerTiming:
    """How long one answer took, in milliseconds from the request, and who gave it; None where it is not known."""

    first_token_ms: int | None
    total_ms: int | None
    completion_tokens: int | None
    persona_id: int | None


@dataclass(frozen=True, slots=True)
class GuildFigures:
    """The use of a guild for some days. `answers`: the last ones, a bounded number of them."""

    days: tuple[DayFigures, ...]
    members: int
    answers: tuple[AnswerTiming, ...]
    persona_names: Mapping[int, str] = field(default_factory=dict)
    """Of the guild's own library; members' own personas are not named."""


@dataclass(frozen=True, slots=True)
class MemberOverview:
    """What an admin sees of a member: use of today and of the last days, when they last asked, and whether blocked."""

    messages_today: int
    """As limits count them."""
    tokens_today: int
    messages: int
    tokens: int
    last_asked_at: datetime | None
    block: Block | None
