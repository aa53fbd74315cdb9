"""The revision of models, up and down with data: a guild's other settings and all replies stay."""

from __future__ import annotations

import importlib

from models.migrate import check_revision, downgrade, upgrade
from tests.migrations.rows import contents, run, stored_time

BEFORE: str = importlib.import_module("migrations.versions.0014_a_model_of_each_guild").down_revision


def test_up_and_down_with_data(empty_url: str) -> None:
    upgrade(empty_url, BEFORE)
    at = stored_time(empty_url)
    true = "1" if empty_url.startswith("sqlite") else "true"
    run(
        empty_url,
        f"INSERT INTO guilds (id, first_seen_at) VALUES (1, '{at}')",
        f"INSERT INTO users (id, first_seen_at) VALUES (7, '{at}')",
        f"INSERT INTO guild_settings (guild_id, max_chat_logs, updated_at) VALUES (1, 7, '{at}')",
        f"INSERT INTO dialogs (guild_id, user_id, opened_at, last_active_at) VALUES (1, 7, '{at}', '{at}')",
        "INSERT INTO turns (dialog_id, status, user_text, reply, created_at, author_id) "
        f"VALUES (1, 'done', 'hi', 'ho', '{at}', 7)",
        "INSERT INTO reply_variants (turn_id, position, active, reply, created_at) "
        f"VALUES (1, 1, {true}, 'ho', '{at}')",
    )
    tables = ("guild_settings", "turns", "reply_variants", "dialogs")
    before = {name: contents(empty_url, name) for name in tables}
    upgrade(empty_url)
    check_revision(empty_url)
    [settings] = contents(empty_url, "guild_settings")
    assert (settings["model"], settings["max_chat_logs"]) == (None, 7)
    [turn] = contents(empty_url, "turns")
    assert (turn["model"], turn["reply"]) == (None, "ho")
    run(
        empty_url,
        "UPDATE guild_settings SET model = 'large'",
        "UPDATE turns SET model = 'llama-3.1-70b'",
        "UPDATE reply_variants SET model = 'llama-3.1-70b'",
    )
    downgrade(empty_url, BEFORE)
    assert {name: contents(empty_url, name) for name in tables} == before
    upgrade(empty_url)
    check_revision(empty_url)
    [settings] = contents(empty_url, "guild_settings")
    assert (settings["model"], settings["max_chat_logs"]) == (None, 7)
