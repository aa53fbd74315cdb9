"""The revision of webhooks, up and down with data: replies stay the bot's own, and guilds keep what they chose."""

from __future__ import annotations

import importlib

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from models.engines import sync_engine
from models.migrate import check_revision, downgrade, upgrade
from models.urls import sync_url
from tests.migrations.rows import contents, run, stored_time

BEFORE: str = importlib.import_module("migrations.versions.0008_webhooks").down_revision


def refuses(url: str, statement: str) -> None:
    engine = sync_engine(sync_url(url))
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def test_up_and_down_with_data(empty_url: str) -> None:
    upgrade(empty_url, BEFORE)
    at = stored_time(empty_url)
    false = "0" if empty_url.startswith("sqlite") else "false"
    run(
        empty_url,
        *(f"INSERT INTO guilds (id, first_seen_at) VALUES ({number}, '{at}')" for number in (1, 2)),
        f"INSERT INTO guild_settings (guild_id, persona_face, max_chat_logs, updated_at) VALUES (1, 'name', 7, '{at}')",
        f"INSERT INTO guild_settings (guild_id, persona_face, updated_at) VALUES (2, 'profile', '{at}')",
        "INSERT INTO deliveries (state, ephemeral, guild_id, channel_id, asker_id, nonce, created_at) "
        f"VALUES ('writing', {false}, 1, 5, 7, 9, '{at}')",
    )
    before = {name: contents(empty_url, name) for name in ("guild_settings", "deliveries")}
    upgrade(empty_url)
    check_revision(empty_url)
    assert [each["persona_face"] for each in contents(empty_url, "guild_settings")] == ["name", "profile"]
    [delivery] = contents(empty_url, "deliveries")
    assert (delivery["webhook_id"], delivery["webhook_name"]) == (None, None)
    refuses(empty_url, "UPDATE guild_settings SET persona_face = 'mask'")
    run(
        empty_url,
        "UPDATE guild_settings SET persona_face = 'webhook' WHERE guild_id = 1",
        "UPDATE deliveries SET webhook_id = 11, webhook_name = 'Jack'",
    )
    downgrade(empty_url, BEFORE)
    after = {name: contents(empty_url, name) for name in ("guild_settings", "deliveries")}
    assert after == before
    refuses(empty_url, "UPDATE guild_settings SET persona_face = 'webhook'")
    upgrade(empty_url)
    check_revision(empty_url)
