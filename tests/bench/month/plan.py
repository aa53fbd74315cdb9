"""How large a month is, what happens in it on which day, and the bot's settings for it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Plan:
    """One month. `messages`: what members do with the bot in a day; `seconds`: of the real clock for a day."""

    guilds: int
    members: int
    days: int
    seconds: float
    messages: int
    chatter: float
    member_quota: int
    guild_quota: int
    retention_days: int
    restarts: dict[int, str] = field(default_factory=dict)
    """By day: "stop" or "kill", in the evening while members wait for answers."""
    reconnects: dict[int, str] = field(default_factory=dict)
    """By day: "resume" or "forget"."""

    def settings(self) -> dict[str, str]:
        """The bot's, without the prefix of their names."""
        return {
            "RETENTION_DAYS": str(self.retention_days),
            "SESSION_TTL": "1d",
            "CLEANUP_INTERVAL": "1s" if self.seconds < 30 else "2s",
            "MEMBER_DAILY_MESSAGES": str(self.member_quota),
            "GUILD_DAILY_MESSAGES": str(self.guild_quota),
        }
