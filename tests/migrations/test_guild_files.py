"""The revision that lets a guild switch files off, up and down with data."""

from __future__ import annotations

import importlib

from models.migrate import check_revision, downgrade, upgrade
from tests.migrations.rows import contents, run, stored_time

BEFORE: str = importlib.import_module("migrations.versions.0011_guild_settings_of_admins").down_revision


def test_up_and_down_with_data(empty_url: str) -> None:
    upgrade(empty_url, BEFORE)
    sqlite = empty_url.startswith("sqlite")
    at = stored_time(empty_url)
    run(
        empty_url,
        f"INSERT INTO guilds (id, first_seen_at) VALUES (1, '{at}')",
        f"INSERT INTO guild_settings (guild_id, max_chat_logs, updated_at) VALUES (1, 7, '{at}')",
    )
    before = contents(empty_url, "guild_settings")
    upgrade(empty_url)
    check_revision(empty_url)
    [settings] = contents(empty_url, "guild_settings")
    assert (bool(settings["files"]), settings["max_chat_logs"]) == (True, 7)
    run(empty_url, f"UPDATE guild_settings SET files = {'0' if sqlite else 'false'}")
    downgrade(empty_url, BEFORE)
    assert contents(empty_url, "guild_settings") == before
    upgrade(empty_url)
    check_revision(empty_url)
    assert bool(contents(empty_url, "guild_settings")[0]["files"])
