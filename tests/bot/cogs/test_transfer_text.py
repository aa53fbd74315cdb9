"""What an import would change fits into a message, whatever the file and the settings are."""

from __future__ import annotations

from bot.cogs.config.transfer_text import change_lines, question_text
from bot.discord_app.splitting.code_fences import utf16_length
from bot.discord_app.splitting.message_split import MESSAGE_LIMIT
from bot.guilds.settings.settings_file.importing import Imported
from bot.settings import load_settings
from models.types import GuildSettings, RolePolicy

LARGE = 9_000_000_000_000_000_000
OLD = GuildSettings(
    channels=frozenset(range(LARGE, LARGE + 20)),
    channel_scopes=tuple((LARGE + number, "member-channel") for number in range(20)),
    roles=tuple(RolePolicy(LARGE + number, True, 10**6, minute_messages=10**6) for number in range(20)),
    moderation_thresholds=tuple((f"{'violence' * 6}{number}", 0.123456) for number in range(20)),
)
NEW = GuildSettings(max_chat_logs=1, filter_words=("gosh",), daily_tokens=5)


def test_a_change_of_much_is_shown_as_far_as_there_is_room() -> None:
    lines = change_lines(OLD, NEW, load_settings(env_file=None))
    names = tuple(f"{'😀' * 40} ({LARGE + number})" for number in range(30))
    found = Imported(NEW, names, ("channels", "channel_scopes", "persona_locks", "roles", "own_personas"))
    text = question_text(lines, found, note="⚠️ The settings were changed meanwhile, so I changed nothing.")
    assert utf16_length(text) <= MESSAGE_LIMIT
    assert "This file would change 8 settings:" in text
    assert text.split("\n")[2].startswith("- Channels where it is different: <#9000000000000000000> `member-channel`")
    assert "more\n-# Not in this guild" in text
    assert "`own_personas`." in text


def test_every_change_is_shown_where_there_is_room() -> None:
    lines = change_lines(GuildSettings(), NEW, load_settings(env_file=None))
    text = question_text(lines, Imported(NEW, (), ()))
    assert text.split("\n") == ["This file would change 3 settings:", *lines]
    assert "- Exchanges that I keep in mind: **10** → **1**" in lines
