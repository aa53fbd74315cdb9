"""Upgrades: with data, by several processes at once, killed in the middle; databases that must be refused."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, inspect, text

from models.engines import sync_engine
from models.errors import DatabaseUnavailable, ForeignDatabase, RevisionError
from models.migrate import ROOT, check_revision, downgrade, head_revision, upgrade
from models.urls import sync_url

UPGRADE = "import sys; from models.migrate import upgrade; upgrade(sys.argv[1])"
NOW = datetime(2026, 11, 20, 23, 30, tzinfo=UTC)


def run(url: str, statement: str, **values: object) -> None:
    engine = sync_engine(sync_url(url))
    with engine.begin() as connection:
        connection.execute(text(statement), values)
    engine.dispose()


def rows(url: str, statement: str) -> list[tuple[object, ...]]:
    engine = sync_engine(sync_url(url), writer=False)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text(statement))]
    engine.dispose()
    return found


def contents(url: str, table: str) -> list[dict[str, object]]:
    """All rows, by column names: a downgrade may add a column that was dropped at the end."""
    engine = sync_engine(sync_url(url), writer=False)
    with engine.connect() as connection:
        found = [dict(row) for row in connection.execute(text(f"SELECT * FROM {table}")).mappings()]
    engine.dispose()
    return found


def fill_first_revision(url: str) -> None:
    at = NOW.replace(tzinfo=None).isoformat(sep=" ") if url.startswith("sqlite") else NOW.isoformat()
    run(url, f"INSERT INTO guilds (id, first_seen_at) VALUES (1, '{at}')")
    run(url, f"INSERT INTO users (id, first_seen_at) VALUES (7, '{at}')")
    run(
        url,
        f"INSERT INTO dialogs (guild_id, user_id, opened_at, last_active_at) VALUES (1, 7, '{at}', '{at}')",
    )
    for number in range(3):
        run(
            url,
            "INSERT INTO turns (dialog_id, interaction_id, status, user_text, reply, prompt_tokens, completion_tokens, "
            f"created_at) VALUES (1, {900 + number}, 'done', 'hi', 'ho', 10, 5, '{at}')",
        )
    run(url, f"INSERT INTO turns (dialog_id, status, user_text, created_at) VALUES (1, 'failed', 'hi', '{at}')")
    run(url, "INSERT INTO personas (guild_id, level, active_version) VALUES (1, 'guild', 1)")
    run(
        url,
        "INSERT INTO persona_versions (persona_id, version, name, prompt, author_id, created_at) "
        f"VALUES (1, 1, 'Pirate', 'Arr', 7, '{at}')",
    )


class TestOldData:
    def test_an_upgrade_fills_the_new_tables(self, empty_url: str) -> None:
        upgrade(empty_url, "0001")
        fill_first_revision(empty_url)
        upgrade(empty_url)
        check_revision(empty_url)
        processed = rows(empty_url, "SELECT interaction_id FROM processed_interactions ORDER BY 1")
        assert processed == [(900,), (901,), (902,)]
        used = rows(
            empty_url, "SELECT guild_id, user_id, day, turns, prompt_tokens, completion_tokens FROM daily_usage"
        )
        [(guild, user, day, *counts)] = used
        assert (guild, user, str(day), counts) == (1, 7, str(date(2026, 11, 20)), [3, 30, 15])

    def test_a_downgrade_keeps_the_old_tables(self, empty_url: str) -> None:
        upgrade(empty_url, "0001")
        fill_first_revision(empty_url)
        names = ("dialogs", "turns", "persona_versions")
        before = {name: contents(empty_url, name) for name in names}
        upgrade(empty_url)
        downgrade(empty_url, "0001")
        assert {name: contents(empty_url, name) for name in names} == before
        upgrade(empty_url)
        check_revision(empty_url)


def fill_slots(url: str) -> None:
    """Personas as revision 0004 has them: set, cleared, without a name, and two of one name in a guild."""
    at = NOW.replace(tzinfo=None).isoformat(sep=" ") if url.startswith("sqlite") else NOW.isoformat()
    true, false = ("1", "0") if url.startswith("sqlite") else ("true", "false")
    for guild in (1, 2):
        run(url, f"INSERT INTO guilds (id, first_seen_at) VALUES ({guild}, '{at}')")
        own = true if guild == 1 else false
        run(
            url,
            "INSERT INTO guild_settings (guild_id, own_personas, max_chat_logs, updated_at) "
            f"VALUES ({guild}, {own}, 7, '{at}')",
        )
    run(url, f"INSERT INTO guild_roles (guild_id, role_id, allowed, daily_turns) VALUES (1, 3, {true}, 4)")
    for user in (7, 8):
        run(url, f"INSERT INTO users (id, first_seen_at) VALUES ({user}, '{at}')")
    slots = [
        ("1, 'guild', 0, NULL, 2", ["Jack", "Jack"]),
        ("1, 'channel', 5, NULL, 1", ["jack"]),
        ("1, 'member', 0, 7, 1", [""]),
        ("1, 'member', 0, 8, NULL", ["Rose", "Lily"]),
        ("2, 'guild', 0, NULL, NULL", ["\u200b"]),
    ]
    for slot, (values, names) in enumerate(slots, start=1):
        run(url, f"INSERT INTO personas (guild_id, level, channel_id, user_id, active_version) VALUES ({values})")
        for version, name in enumerate(names, start=1):
            run(
                url,
                "INSERT INTO persona_versions (persona_id, version, name, prompt, author_id, created_at) "
                f"VALUES ({slot}, {version}, :name, 'text {slot}.{version}', 7, '{at}')",
                name=name,
            )


class TestLibrary:
    """Revision 0005: each slot becomes an entry of a library, and goes back into its slot."""

    SLOTS = "SELECT id, guild_id, level, channel_id, user_id, active_version FROM personas ORDER BY id"
    TEXTS = "SELECT persona_id, version, name, prompt FROM persona_versions ORDER BY persona_id, version"

    def test_slots_become_entries_and_come_back(self, empty_url: str) -> None:
        upgrade(empty_url, "0004")
        fill_slots(empty_url)
        slots, texts = rows(empty_url, self.SLOTS), rows(empty_url, self.TEXTS)
        upgrade(empty_url)
        check_revision(empty_url)
        assert rows(empty_url, "SELECT id, guild_id, owner_id, name, active_version FROM personas ORDER BY id") == [
            (1, 1, None, "Jack", 2), (2, 1, None, "jack 2", 1), (3, 1, 7, "Persona", 1), (4, 1, 8, "Lily", 2),
            (5, 2, None, "Persona", 1),
        ]  # fmt: skip
        assert rows(
            empty_url,
            "SELECT guild_id, level, place_id, user_id, persona_id, set_by FROM persona_assignments "
            "ORDER BY persona_id",
        ) == [(1, "guild", 0, None, 1, 7), (1, "channel", 5, None, 2, 7), (1, "member", 0, 7, 3, 7)]
        settings = "SELECT guild_id, own_personas, max_chat_logs FROM guild_settings ORDER BY guild_id"
        assert rows(empty_url, settings) == [(1, "members", 7), (2, "nobody", 7)]
        assert rows(empty_url, self.TEXTS) == texts
        downgrade(empty_url, "0004")
        assert rows(empty_url, self.SLOTS) == slots
        assert rows(empty_url, self.TEXTS) == texts
        assert [bool(own) for _, own, _ in rows(empty_url, settings)] == [True, False]

    def test_down_keeps_what_a_slot_can_hold(self, empty_url: str) -> None:
        upgrade(empty_url, "0004")
        fill_slots(empty_url)
        upgrade(empty_url)
        assign = "INSERT INTO persona_assignments (guild_id, level, place_id, persona_id, set_at) VALUES "
        at = NOW.replace(tzinfo=None).isoformat(sep=" ") if empty_url.startswith("sqlite") else NOW.isoformat()
        run(empty_url, f"{assign} (1, 'channel', 9, 1, '{at}'), (1, 'category', 4, 1, '{at}')")
        run(
            empty_url,
            "INSERT INTO personas (guild_id, owner_id, name, name_key, active_version, created_at, updated_at) "
            f"VALUES (1, NULL, 'Spare', 'spare', 1, '{at}', '{at}'), (1, 7, 'Extra', 'extra', 1, '{at}', '{at}')",
        )
        run(empty_url, "INSERT INTO locked_channels (guild_id, channel_id) VALUES (1, 5)")
        run(empty_url, "UPDATE guild_settings SET own_personas = 'roles' WHERE guild_id = 1")
        downgrade(empty_url, "0004")
        slots = rows(empty_url, self.SLOTS)
        assert [slot[1:] for slot in slots] == [
            (1, "guild", 0, None, 2), (1, "channel", 5, None, 1), (1, "member", 0, 7, 1), (1, "member", 0, 8, None),
            (2, "guild", 0, None, None), (1, "channel", 9, None, 2),
        ]  # fmt: skip
        copied = slots[-1][0]
        assert [text for persona_id, _, _, text in rows(empty_url, self.TEXTS) if persona_id == copied] == [
            "text 1.1", "text 1.2",
        ]  # fmt: skip
        upgrade(empty_url)
        check_revision(empty_url)


class TestMemory:
    """Revision 0006: nobody is remembered until they choose it, and a downgrade forgets."""

    def test_up_and_down_with_data(self, empty_url: str) -> None:
        upgrade(empty_url, "0005")
        at = NOW.replace(tzinfo=None).isoformat(sep=" ") if empty_url.startswith("sqlite") else NOW.isoformat()
        true = "1" if empty_url.startswith("sqlite") else "true"
        run(empty_url, f"INSERT INTO guilds (id, first_seen_at) VALUES (1, '{at}')")
        run(empty_url, f"INSERT INTO users (id, first_seen_at) VALUES (7, '{at}')")
        run(empty_url, f"INSERT INTO guild_settings (guild_id, max_chat_logs, updated_at) VALUES (1, 7, '{at}')")
        run(
            empty_url,
            f"INSERT INTO member_settings (guild_id, user_id, locale, updated_at) VALUES (1, 7, 'de', '{at}')",
        )
        run(
            empty_url,
            f"INSERT INTO dialogs (guild_id, user_id, opened_at, last_active_at) VALUES (1, 7, '{at}', '{at}')",
        )
        run(
            empty_url,
            "INSERT INTO turns (dialog_id, status, user_text, reply, created_at) "
            f"VALUES (1, 'done', 'hi', 'ho', '{at}')",
        )
        run(empty_url, "INSERT INTO turn_prompts (turn_id, persona_id, num_pairs) VALUES (1, 3, 2)")
        names = ("guild_settings", "member_settings", "dialogs", "turn_prompts")
        before = {name: contents(empty_url, name) for name in names}
        upgrade(empty_url)
        check_revision(empty_url)
        assert [bool(value) for (value,) in rows(empty_url, "SELECT memory FROM guild_settings")] == [False]
        assert rows(empty_url, "SELECT memory FROM member_settings") == [(None,)]
        assert rows(empty_url, "SELECT digest, inputs FROM turn_prompts") == [(None, None)]
        run(empty_url, "UPDATE turn_prompts SET digest = 'ab', inputs = '{}'")
        run(empty_url, f"UPDATE member_settings SET memory = {true}")
        run(
            empty_url,
            "INSERT INTO facts (guild_id, user_id, text, source_at, created_at, last_used_at) "
            f"VALUES (1, 7, 'Likes tea.', '{at}', '{at}', '{at}')",
        )
        run(
            empty_url,
            "INSERT INTO dialog_summaries (dialog_id, from_turn_id, to_turn_id, text, created_at) "
            f"VALUES (1, 1, 2, 'They met.', '{at}')",
        )
        run(empty_url, "INSERT INTO memory_work (dialog_id) VALUES (1)")
        downgrade(empty_url, "0005")
        assert {name: contents(empty_url, name) for name in names} == before
        upgrade(empty_url)
        check_revision(empty_url)
        assert rows(empty_url, "SELECT count(*) FROM facts") == [(0,)]


class TestTwoProcesses:
    def test_fault_16_one_migrates_and_the_other_waits(self, empty_url: str) -> None:
        processes = [
            subprocess.Popen([sys.executable, "-c", UPGRADE, empty_url], cwd=ROOT, stderr=subprocess.PIPE)
            for _ in range(3)
        ]
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors.decode()
        check_revision(empty_url)

    def test_fault_17_a_kill_in_the_middle_leaves_the_old_schema(self, empty_url: str) -> None:
        upgrade(empty_url, "0001")
        fill_first_revision(empty_url)
        # The process hangs in the last step of the second revision, after all its tables were created.
        slow = (
            "import sys, time\n"
            "from alembic.operations import Operations\n"
            "from models.migrate import upgrade\n"
            "def stop(self, *args, **kwargs):\n"
            "    print('inside', flush=True)\n"
            "    time.sleep(600)\n"
            "Operations.execute = stop\n"
            "upgrade(sys.argv[1])\n"
        )
        process = subprocess.Popen([sys.executable, "-c", slow, empty_url], cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"inside\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with pytest.raises(RevisionError) as caught:
            check_revision(empty_url)
        assert (caught.value.found, caught.value.expected) == ("0001", head_revision())
        assert rows(empty_url, "SELECT count(*) FROM turns") == [(4,)]
        engine = sync_engine(sync_url(empty_url), writer=False)
        assert not inspect(engine).has_table("daily_usage")
        engine.dispose()
        upgrade(empty_url)
        check_revision(empty_url)
        assert rows(empty_url, "SELECT count(*) FROM turns") == [(4,)]


class TestRefusal:
    def test_fault_15_an_empty_database_names_the_command(self, empty_url: str) -> None:
        with pytest.raises(RevisionError, match="guildllama db upgrade"):
            check_revision(empty_url)

    def test_a_check_creates_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(RevisionError):
            check_revision(f"sqlite:///{tmp_path / 'none.db'}")
        assert list(tmp_path.iterdir()) == []

    def test_fault_15_a_schema_behind_is_refused(self, empty_url: str) -> None:
        upgrade(empty_url, "0001")
        with pytest.raises(RevisionError, match="at revision 0001"):
            check_revision(empty_url)

    def test_fault_15_a_schema_ahead_is_refused(self, database_url: str) -> None:
        run(database_url, "UPDATE alembic_version SET version_num = '9999'")
        with pytest.raises(RevisionError) as caught:
            check_revision(database_url)
        assert caught.value.found == "9999"

    def test_fault_15_a_foreign_schema_is_left_alone(self, empty_url: str) -> None:
        run(empty_url, "CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        for act in (check_revision, upgrade):
            with pytest.raises(ForeignDatabase):
                act(empty_url)
        engine: Engine = sync_engine(sync_url(empty_url), writer=False)
        assert inspect(engine).get_table_names() == ["orders"]
        engine.dispose()

    def test_fault_15_another_programs_alembic_is_foreign(self, empty_url: str) -> None:
        run(empty_url, "CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
        run(empty_url, "INSERT INTO alembic_version VALUES ('abc123')")
        run(empty_url, "CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        for act in (check_revision, upgrade):
            with pytest.raises(ForeignDatabase):
                act(empty_url)

    def test_fault_15_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.db"
        path.write_bytes(b"shopping list: milk, bread, eggs\n" * 200)
        before = path.read_bytes()
        for act in (check_revision, upgrade):
            with pytest.raises(DatabaseUnavailable, match="not a database"):
                act(f"sqlite:///{path}")
        assert path.read_bytes() == before

    @pytest.mark.parametrize("page", [1, 2, 5])
    def test_fault_15_flipped_bytes_are_noticed(self, sqlite_url: str, page: int) -> None:
        path = Path(sqlite_url.removeprefix("sqlite:///"))
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
        connection.close()
        data = bytearray(path.read_bytes())
        start = page * 4096 + 2
        for offset in range(start, start + 64):
            data[offset] ^= 0xFF
        path.write_bytes(data)
        with pytest.raises(DatabaseUnavailable):
            check_revision(sqlite_url)
        assert path.read_bytes() == bytes(data)

    def test_fault_44_a_server_that_is_not_there(self) -> None:
        for act in (check_revision, upgrade):
            with pytest.raises(DatabaseUnavailable):
                act("postgresql://nobody@127.0.0.1:1/none")

    def test_fault_44_a_database_that_is_not_there(self, postgres_url: str) -> None:
        with pytest.raises(DatabaseUnavailable, match="does not exist"):
            check_revision(postgres_url.replace("/t_", "/gone_"))

    @pytest.mark.parametrize(
        "url", ["mysql://x/y", "sqlite://", "sqlite:///:memory:", "nonsense", "sqlite:///file:x?uri=true"]
    )
    def test_urls_that_cannot_work(self, url: str) -> None:
        with pytest.raises(DatabaseUnavailable):
            check_revision(url)
