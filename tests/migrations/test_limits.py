"""The revision with limits, up and down with data."""

from __future__ import annotations

import importlib

from models.migrate import check_revision, downgrade, upgrade
from tests.migrations.rows import contents, run, stored_time

BEFORE: str = importlib.import_module("migrations.versions.0013_limits_and_filters").down_revision


def test_up_and_down_with_data(empty_url: str) -> None:
    upgrade(empty_url, BEFORE)
    at = stored_time(empty_url)
    run(
        empty_url,
        f"INSERT INTO guilds (id, first_seen_at) VALUES (1, '{at}')",
        f"INSERT INTO users (id, first_seen_at) VALUES (7, '{at}')",
        f"INSERT INTO guild_settings (guild_id, daily_turns, updated_at) VALUES (1, 3, '{at}')",
        "INSERT INTO guild_roles (guild_id, role_id, daily_turns) VALUES (1, 5, 9)",
        "INSERT INTO daily_usage (guild_id, user_id, day, turns, prompt_tokens, completion_tokens) "
        "VALUES (1, 7, '2026-11-29', 2, 10, 20)",
    )
    run(
        empty_url,
        "INSERT INTO personas (guild_id, active_version, name, name_key, created_at, updated_at) "
        f"VALUES (1, 1, 'Ann', 'ann', '{at}', '{at}')",
    )
    tables = ("personas", "guild_settings", "guild_roles", "daily_usage")
    before = {name: contents(empty_url, name) for name in tables}
    upgrade(empty_url)
    check_revision(empty_url)
    [persona], [guild], [role], [used] = (contents(empty_url, name) for name in tables)
    assert (guild["daily_turns"], guild["minute_messages"], guild["guild_running_replies"]) == (3, None, None)
    assert (bool(guild["moderation"]), guild["moderation_thresholds"]) == (False, "{}")
    assert (role["daily_turns"], role["running_replies"]) == (9, None)
    assert not persona["age_restricted"]
    assert (used["turns"], used["more_replies"]) == (2, 0)
    run(
        empty_url,
        "UPDATE guild_settings SET minute_messages = 4, guild_daily_tokens = 1000",
        "UPDATE guild_roles SET daily_tokens = 50",
        "INSERT INTO guild_filter_words (guild_id, position, word) VALUES (1, 0, 'darn')",
        "UPDATE daily_usage SET more_replies = 1",
    )
    downgrade(empty_url, BEFORE)
    assert {name: contents(empty_url, name) for name in tables} == before
    upgrade(empty_url)
    check_revision(empty_url)
    assert contents(empty_url, "guild_settings")[0]["minute_messages"] is None
