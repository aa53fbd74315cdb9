"""The revision of faces and scenes, up and down with data: replies look as they did, and keep their words."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime

from sqlalchemy import text

from models.engines import sync_engine
from models.migrate import check_revision, downgrade, upgrade
from models.urls import sync_url

BEFORE: str = importlib.import_module("migrations.versions.0007_faces_and_scenes").down_revision
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def run(url: str, *statements: str) -> None:
    engine = sync_engine(sync_url(url))
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def contents(url: str, table: str) -> list[dict[str, object]]:
    engine = sync_engine(sync_url(url), writer=False)
    with engine.connect() as connection:
        found = [dict(row) for row in connection.execute(text(f"SELECT * FROM {table} ORDER BY 1, 2")).mappings()]
    engine.dispose()
    return found


def test_up_and_down_with_data(empty_url: str) -> None:
    upgrade(empty_url, BEFORE)
    at = NOW.replace(tzinfo=None).isoformat(sep=" ") if empty_url.startswith("sqlite") else NOW.isoformat()
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
