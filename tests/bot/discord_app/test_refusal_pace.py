"""A flood of messages is not answered by a flood of refusals."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from bot.discord_app.replies.refusal_pace import RefusalPace
from bot.errors import Busy, QuotaUsedUp, TooManyMessages

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
OWN, GUILDS = TooManyMessages(3, "member", NOW), TooManyMessages(3, "guild", NOW)


def message(author: int, channel: int = 1) -> Any:
    return SimpleNamespace(author=SimpleNamespace(id=author), channel=SimpleNamespace(id=channel))


def test_once_a_minute_to_each_member_in_a_channel() -> None:
    now = 0.0
    pace = RefusalPace(lambda: now)
    assert pace.may_say(OWN, message(1))
    assert not pace.may_say(OWN, message(1))
    assert not pace.may_say(QuotaUsedUp("turns", 1, NOW), message(1))
    assert pace.may_say(OWN, message(2))
    assert pace.may_say(OWN, message(1, channel=2))
    now = 59.9
    assert not pace.may_say(OWN, message(1))
    now = 60.0
    assert pace.may_say(OWN, message(1))


def test_what_concerns_everybody_is_said_once_a_minute_in_a_channel() -> None:
    now = 0.0
    pace = RefusalPace(lambda: now)
    said = [pace.may_say(error, message(author)) for author in range(50) for error in (GUILDS, Busy())]
    assert said.count(True) == 1
    assert pace.may_say(GUILDS, message(1, channel=2))
