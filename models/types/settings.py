"""What guilds and members chose, what they used, and the audit log."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from models.types.keys import DialogScope
from models.types.personas import OwnPersonas, PersonaFace


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
    memory: bool = False
    """Whether facts about the member are remembered, and may stand in prompts."""
    summaries: bool = False
    """Whether a summary of the dialog is kept: the member's choice, in a shared dialog that of the guild."""


NO_SETTINGS = DialogSettings()
"""Where neither guild nor member chose anything."""


@dataclass(frozen=True, slots=True)
class RolePolicy:
    """A guild's rules for one of its roles."""

    role_id: int
    allowed: bool = False
    daily_turns: int | None = None
    own_persona: bool = False
    """Whether members with it may have a persona of their own, where only some roles may."""
    minute_messages: int | None = None
    running_replies: int | None = None
    daily_tokens: int | None = None
    """As in `GuildSettings`, for its members instead of the guild's numbers."""


@dataclass(frozen=True, slots=True)
class GuildSettings:
    """A guild's settings. None: the operator's default applies. No channel listed, or no role allowed: all may chat."""

    dialog_scope: DialogScope = "member"
    max_chat_logs: int | None = None
    max_reply_tokens: int | None = None
    retention_days: int | None = None
    session_ttl: timedelta | None = None
    daily_turns: int | None = None
    daily_tokens: int | None = None
    own_personas: OwnPersonas = "members"
    streaming: bool = True
    locale: str | None = None
    channels: frozenset[int] = frozenset()
    roles: tuple[RolePolicy, ...] = ()
    channel_scopes: tuple[tuple[int, DialogScope], ...] = ()
    """Channels whose dialogs have a scope of their own, by channel id."""
    locked_channels: frozenset[int] = frozenset()
    """Categories, channels and threads in which no member's own persona answers."""
    memory: bool = False
    """Whether members may have the bot remember what prompts no longer contain."""
    persona_face: PersonaFace = "off"
    files: bool = True
    """Whether files that come with messages are read."""
    minute_messages: int | None = None
    """Of one member, as `running_replies`, `daily_turns` and `daily_tokens`."""
    running_replies: int | None = None
    guild_minute_messages: int | None = None
    """Of all members together, as the numbers below."""
    guild_running_replies: int | None = None
    guild_daily_turns: int | None = None
    guild_daily_tokens: int | None = None
    filter_words: tuple[str, ...] = field(default=(), repr=False)
    """Words that are kept out of conversations, as `bot.safety.words` compares them."""
    moderation: bool = False
    """Whether the moderation endpoint checks messages and replies."""
    moderation_thresholds: tuple[tuple[str, float], ...] = ()
    """The score of a category from which a text is kept out; for the others, the endpoint says so."""
    model: str | None = None
    """The name of one of the models that the operator lists. It may have been taken off the list since."""


@dataclass(frozen=True, slots=True)
class ThreadBinding:
    """A thread in which every message of the members counts. `parent_id` is its channel."""

    thread_id: int
    guild_id: int
    parent_id: int
    last_used_at: datetime
    """When members last talked in it; recorded at most once a day."""
    creator_id: int | None = None
    """Who asked for it; None for one who opted out."""


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """A member's settings in one guild."""

    max_chat_logs: int | None = None
    retention_days: int | None = None
    private: bool | None = None
    locale: str | None = None
    memory: bool | None = None
    """Whether they want to be remembered beyond the conversation; None: they have not chosen, so no."""


@dataclass(frozen=True, slots=True)
class Usage:
    """A member's finished turns and tokens of one UTC day."""

    day: date
    turns: int
    prompt_tokens: int
    completion_tokens: int
    more_replies: int = 0
    """Further replies to turns, which count as messages."""

    @property
    def messages(self) -> int:
        """Finished turns and further replies to earlier ones: what limits count."""
        return self.turns + self.more_replies


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One audit log entry: an action of an admin or the operator. `details` is JSON."""

    guild_id: int | None
    actor_id: int | None
    target_id: int | None
    action: str
    details: str
    created_at: datetime
    entry_id: int = 0
