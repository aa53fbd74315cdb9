"""The revision of faces and scenes, up and down with data: replies look as they did, and keep their words."""

from __future__ import annotations

import importlib

from models.migrate import check_revision, downgrade, upgrade
from tests.migrations.rows import contents, run, stored_time

BEFORE: str = importlib.import_module("migrations.versions.0007_faces_and_scenes").down_revision


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
        "INSERT INTO personas (guild_id, name, name_key, active_version, created_at, updated_at) "
        f"VALUES (1, 'Jack', 'jack', 1, '{at}', '{at}')",
        "INSERT INTO persona_versions (persona_id, version, name, prompt, created_at) "
        f"VALUES (1, 1, 'Jack', 'Arr', '{at}')",
    )
    tables = ("guild_settings", "turns", "reply_variants", "personas", "persona_versions", "dialogs")
    before = {name: contents(empty_url, name) for name in tables}
    upgrade(empty_url)
    check_revision(empty_url)
    [settings] = contents(empty_url, "guild_settings")
    assert (settings["persona_face"], settings["max_chat_logs"]) == ("off", 7)
    [turn] = contents(empty_url, "turns")
    assert (turn["speaker_id"], turn["speaker_name"], turn["reply"]) == (None, None, "ho")
    run(
        empty_url,
        "UPDATE guild_settings SET persona_face = 'profile'",
        "UPDATE turns SET speaker_id = 1, speaker_name = 'Jack'",
        f"INSERT INTO guild_profiles (guild_id, persona_id, fingerprint, sent_at) VALUES (1, 1, 'x', '{at}')",
        "INSERT INTO scenes (guild_id, place_id) VALUES (1, 5)",
        "INSERT INTO scene_characters (guild_id, place_id, persona_id, position) VALUES (1, 5, 1, 1)",
    )
    downgrade(empty_url, BEFORE)
    assert {name: contents(empty_url, name) for name in tables} == before
    upgrade(empty_url)
    check_revision(empty_url)
    assert contents(empty_url, "scenes") == []
