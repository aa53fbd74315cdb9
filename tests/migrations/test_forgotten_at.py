"""The revision that keeps when a member had everything forgotten, up and down with data."""

from __future__ import annotations

import importlib

from models.migrate import check_revision, downgrade, upgrade
from tests.migrations.rows import contents, run, stored_time

BEFORE: str = importlib.import_module("migrations.versions.0009_forgotten_at").down_revision


def test_up_and_down_with_data(empty_url: str) -> None:
    upgrade(empty_url, BEFORE)
    at = stored_time(empty_url)
    true = "1" if empty_url.startswith("sqlite") else "true"
    run(
        empty_url,
        f"INSERT INTO guilds (id, first_seen_at) VALUES (1, '{at}')",
        f"INSERT INTO users (id, first_seen_at) VALUES (7, '{at}')",
        f"INSERT INTO member_settings (guild_id, user_id, memory, updated_at) VALUES (1, 7, {true}, '{at}')",
        "INSERT INTO facts (guild_id, user_id, text, source_at, created_at, last_used_at) "
        f"VALUES (1, 7, 'Sings.', '{at}', '{at}', '{at}')",
    )
    before = {name: contents(empty_url, name) for name in ("member_settings", "facts")}
    upgrade(empty_url)
    check_revision(empty_url)
    [member] = contents(empty_url, "member_settings")
    assert (bool(member["memory"]), member["forgotten_at"]) == (True, None)
    run(empty_url, f"UPDATE member_settings SET forgotten_at = '{at}'")
    downgrade(empty_url, BEFORE)
    assert {name: contents(empty_url, name) for name in before} == before
    upgrade(empty_url)
    check_revision(empty_url)
    assert contents(empty_url, "member_settings")[0]["forgotten_at"] is None
