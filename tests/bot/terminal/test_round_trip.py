"""Personas, faces, scenes and memory from SQLite to Postgres and back by the commands: every row is what it was."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select

from models import tables
from models.engines import sync_engine
from models.tables import Base
from models.urls import sync_url
from tests.bot.terminal.test_cli import Shell
from tests.fork_server import ForkServer

NOW = datetime(2026, 11, 29, 23, 59, 59, 999_999, tzinfo=UTC)
GUILD, MEMBER = 2**62, 7
LONG = "Ünï 🦙 \\ '\"%\n\t" * 200
OF_CHARACTERS = frozenset(
    {
        "personas", "persona_versions", "persona_pictures", "persona_assignments", "locked_channels", "default_prompts",
        "turn_prompts", "dialog_summaries", "facts", "memory_work", "guild_profiles", "scenes", "scene_characters",
    }
)  # fmt: skip
ROWS: list[tuple[type[Base], list[dict[str, Any]]]] = [
    (tables.Guild, [{"id": GUILD, "first_seen_at": NOW}, {"id": 0, "first_seen_at": NOW}]),
    (tables.User, [{"id": MEMBER, "first_seen_at": NOW}, {"id": 0, "first_seen_at": NOW}]),
    (
        tables.GuildSettingsRow,
        [{"guild_id": GUILD, "updated_at": NOW, "memory": True, "persona_face": "profile", "own_personas": "roles"}],
    ),
    (
        tables.MemberSettingsRow,
        [
            {"guild_id": GUILD, "user_id": MEMBER, "updated_at": NOW, "memory": True, "forgotten_at": NOW},
            {"guild_id": 0, "user_id": MEMBER, "updated_at": NOW, "memory": False, "forgotten_at": None},
        ],
    ),
    (tables.LockedChannel, [{"guild_id": GUILD, "channel_id": 2**63 - 1}]),
    (
        tables.Persona,
        [
            {
                "id": 3,
                "guild_id": GUILD,
                "owner_id": None,
                "active_version": 2,
                "name": "Jack 🏴‍☠️",
                "name_key": "jack",
                "tags": '["sea"]',
                "created_at": NOW,
                "updated_at": NOW,
            },
            {
                "id": 9,
                "guild_id": GUILD,
                "owner_id": MEMBER,
                "active_version": 1,
                "name": "Mine",
                "name_key": "mine",
                "tags": "[]",
                "created_at": NOW,
                "updated_at": NOW,
            },
        ],
    ),
    (
        tables.PersonaVersion,
        [
            {
                "persona_id": 3,
                "version": 1,
                "name": "Jack",
                "prompt": LONG,
                "author_id": MEMBER,
                "created_at": NOW,
                "card": None,
            },
            {
                "persona_id": 3,
                "version": 2,
                "name": "Jack",
                "prompt": "Arr.",
                "author_id": None,
                "created_at": NOW,
                "card": '{"name": "Jack", "x": 1.50}',
            },
            {
                "persona_id": 9,
                "version": 1,
                "name": "Mine",
                "prompt": "",
                "author_id": MEMBER,
                "created_at": NOW,
                "card": None,
            },
        ],
    ),
    (
        tables.PersonaPicture,
        [{"persona_id": 3, "media_type": "image/png", "content": "iVBORw0KGgo=" * 5000, "created_at": NOW}],
    ),
    (
        tables.PersonaAssignment,
        [
            {
                "id": 5,
                "guild_id": GUILD,
                "level": "thread",
                "place_id": 44,
                "user_id": None,
                "persona_id": 3,
                "set_by": MEMBER,
                "set_at": NOW,
            },
            {
                "id": 6,
                "guild_id": GUILD,
                "level": "member",
                "place_id": 0,
                "user_id": MEMBER,
                "persona_id": 9,
                "set_by": None,
                "set_at": NOW,
            },
        ],
    ),
    (
        tables.GuildProfile,
        [{"guild_id": GUILD, "persona_id": 3, "fingerprint": "f" * 64, "problem": "slower", "sent_at": NOW}],
    ),
    (tables.Scene, [{"guild_id": GUILD, "place_id": 44, "speak": "model"}]),
    (tables.SceneCharacter, [{"guild_id": GUILD, "place_id": 44, "persona_id": 3, "position": 1}]),
    (
        tables.Dialog,
        [{"id": 2, "guild_id": GUILD, "user_id": 0, "channel_id": 44, "opened_at": NOW, "last_active_at": NOW}],
    ),
    (
        tables.Turn,
        [
            {
                "id": 8,
                "dialog_id": 2,
                "status": "done",
                "user_text": LONG,
                "reply": "ho",
                "created_at": NOW,
                "finished_at": NOW,
                "author_id": MEMBER,
                "author_name": "Ann",
                "speaker_id": 3,
                "speaker_name": "Jack",
            }
        ],
    ),
    (
        tables.ReplyVariant,
        [
            {
                "turn_id": 8,
                "position": 1,
                "active": True,
                "reply": "ho",
                "created_at": NOW,
                "speaker_id": 3,
                "speaker_name": "Jack",
            }
        ],
    ),
    (tables.DefaultPrompt, [{"id": 4, "sha256": "0" * 64, "text": "You are a test.", "first_used_at": NOW}]),
    (
        tables.TurnPrompt,
        [
            {
                "turn_id": 8,
                "persona_id": 3,
                "persona_version": 2,
                "default_prompt_id": 4,
                "first_turn_id": 1,
                "num_pairs": 3,
                "num_examples": 2,
                "greeting": 1,
                "lore": "[1]",
                "summary_id": 12,
                "fact_ids": "[10]",
                "digest": "d" * 64,
                "inputs": '{"user": "Ann"}',
            }
        ],
    ),
    (
        tables.DialogSummary,
        [{"id": 12, "dialog_id": 2, "from_turn_id": 1, "to_turn_id": 8, "text": LONG[:1200], "created_at": NOW}],
    ),
    (
        tables.Fact,
        [
            {
                "id": 10,
                "guild_id": GUILD,
                "user_id": MEMBER,
                "text": "Sings 🎶.",
                "source_turn_id": 8,
                "source_at": NOW,
                "created_at": NOW,
                "last_used_at": NOW + timedelta(microseconds=1),
                "edited": True,
                "private": True,
            },
            {
                "id": 11,
                "guild_id": 0,
                "user_id": MEMBER,
                "text": "Dances.",
                "source_turn_id": None,
                "source_at": NOW,
                "created_at": NOW,
                "last_used_at": NOW,
                "edited": False,
                "private": False,
            },
        ],
    ),
    (
        tables.MemoryWork,
        [
            {
                "dialog_id": 2,
                "facts_to_turn_id": 8,
                "owner": "host/1/2/3",
                "claimed_at": NOW,
                "failures": 3,
                "retry_at": NOW,
            }
        ],
    ),
]  # fmt: skip


def fill(url: str) -> None:
    engine = sync_engine(sync_url(url))
    with engine.begin() as connection:
        for table, rows in ROWS:
            connection.execute(insert(table), rows)
    engine.dispose()


def contents(url: str) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, in the order of its primary key."""
    engine = sync_engine(sync_url(url), writer=False)
    found = {}
    with engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            rows = connection.execute(select(table).order_by(*table.primary_key.columns))
            found[table.name] = [dict(row) for row in rows.mappings()]
    engine.dispose()
    return found


async def test_from_sqlite_to_postgres_and_back(
    forks: ForkServer, sqlite_url: str, empty_postgres_url: str, tmp_path: Path
) -> None:
    await asyncio.to_thread(fill, sqlite_url)
    before = contents(sqlite_url)
    assert {name for name in OF_CHARACTERS if not before[name]} == set()
    shell = Shell(forks, tmp_path)

    async def run(*arguments: str, database: str) -> None:
        shell.env["GUILDLLAMA_DATABASE_URL"] = database
        done = await shell("db", *arguments)
        assert done.code == 0, done.err

    back, restored = f"sqlite:///{tmp_path / 'back.db'}", f"sqlite:///{tmp_path / 'restored.db'}"
    await run("copy", sqlite_url, empty_postgres_url, database=sqlite_url)
    assert contents(empty_postgres_url) == before
    await run("copy", empty_postgres_url, back, database=back)
    assert contents(back) == before
    await run("backup", "all.db", database=empty_postgres_url)
    await run("restore", "all.db", database=restored)
    assert contents(restored) == before
