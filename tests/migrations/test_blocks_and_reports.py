"""The revision of blocks and reports, up and down with data: who was blocked stays so, and conversations stay."""

from __future__ import annotations

import importlib

from models.migrate import check_revision, downgrade, upgrade
from tests.migrations.rows import contents, run, stored_time

BEFORE: str = importlib.import_module("migrations.versions.0012_blocks_and_reports").down_revision

PARTS = (
    "turns", "turn_files", "turn_prompts", "reply_variants", "deliveries", "delivery_messages", "dialog_summaries",
    "memory_work",
)  # fmt: skip


def everything_of_dialog(dialog_id: int, at: str) -> tuple[str, ...]:
    """A turn of a dialog, with a row in every table below it."""
    return (
        "INSERT INTO turns (dialog_id, status, user_text, reply, created_at, author_id) "
        f"VALUES ({dialog_id}, 'done', 'hi', 'ho', '{at}', 8)",
        "INSERT INTO turn_files (turn_id, position, name, content) VALUES (1, 0, 'a.txt', 'a')",
        "INSERT INTO turn_prompts (turn_id, num_pairs) VALUES (1, 0)",
        f"INSERT INTO reply_variants (turn_id, position, active, reply, created_at) VALUES (1, 1, '1', 'ho', '{at}')",
        "INSERT INTO deliveries (turn_id, state, ephemeral, guild_id, channel_id, asker_id, nonce, created_at) "
        f"VALUES (1, 'done', '0', 1, 5, 8, 9, '{at}')",
        "INSERT INTO delivery_messages (delivery_id, position, message_id, with_file) VALUES (1, 0, 55, '0')",
        "INSERT INTO dialog_summaries (dialog_id, from_turn_id, to_turn_id, text, created_at) "
        f"VALUES ({dialog_id}, 1, 1, 'short', '{at}')",
        f"INSERT INTO memory_work (dialog_id) VALUES ({dialog_id})",
    )


def test_up_and_down_with_data(empty_url: str) -> None:
    upgrade(empty_url, BEFORE)
    at = stored_time(empty_url)
    run(
        empty_url,
        f"INSERT INTO guilds (id, first_seen_at) VALUES (1, '{at}')",
        *(f"INSERT INTO users (id, first_seen_at) VALUES ({user}, '{at}')" for user in (7, 8)),
        f"INSERT INTO member_settings (guild_id, user_id, blocked_at, updated_at) VALUES (1, 7, '{at}', '{at}')",
        f"INSERT INTO member_settings (guild_id, user_id, retention_days, updated_at) VALUES (1, 8, 3, '{at}')",
        f"INSERT INTO dialogs (guild_id, user_id, opened_at, last_active_at) VALUES (1, 7, '{at}', '{at}')",
        f"INSERT INTO dialogs (guild_id, user_id, opened_at, last_active_at) VALUES (1, 8, '{at}', '{at}')",
    )
    before = {name: contents(empty_url, name) for name in ("member_settings", "dialogs")}
    upgrade(empty_url)
    check_revision(empty_url)
    [block] = contents(empty_url, "member_blocks")
    assert (block["guild_id"], block["user_id"], block["until"], block["reason"]) == (1, 7, None, None)
    assert "blocked_at" not in contents(empty_url, "member_settings")[0]
    run(
        empty_url,
        f"INSERT INTO purges (guild_id, requested_at, due_at) VALUES (1, '{at}', '{at}')",
        f"INSERT INTO dialogs (guild_id, user_id, opened_at, last_active_at, ended_at, purge_id) "
        f"VALUES (1, 8, '{at}', '{at}', '{at}', 1)",
        *everything_of_dialog(3, at),
        f"INSERT INTO member_blocks (guild_id, user_id, blocked_at) VALUES (1, 99, '{at}')",  # not stored otherwise
        "INSERT INTO member_blocks (guild_id, user_id, blocked_at, until) "
        "VALUES (1, 8, '2020-01-01 12:00:00', '2020-01-01 13:00:00')",  # it has ended
        "INSERT INTO reports (guild_id, channel_id, source_turn_id, author_id, pair, created_at) "
        f"VALUES (1, 5, 1, 7, '{{}}', '{at}')",
        "INSERT INTO report_speakers (report_id, user_id) VALUES (1, 8)",
        "INSERT INTO report_channels (guild_id, channel_id) VALUES (1, 5)",
    )
    downgrade(empty_url, BEFORE)
    after = {name: contents(empty_url, name) for name in ("member_settings", "dialogs")}
    assert after["dialogs"] == before["dialogs"]
    assert {name: contents(empty_url, name) for name in PARTS} == {name: [] for name in PARTS}
    assert {row["user_id"]: row["blocked_at"] is not None for row in after["member_settings"]} == {7: True, 8: False}
    assert [row["retention_days"] for row in after["member_settings"]] == [None, 3]
    upgrade(empty_url)
    check_revision(empty_url)
