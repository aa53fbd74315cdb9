"""`guildllama admin` as an operator starts it: what it prints, what it refuses, how it ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from bot.admin.access.passwords import check_password
from bot.admin.server import live_urls
from bot.terminal.admin_commands import admin_app
from tests.bot.admin.admin_kit import admin_settings

ROOT = Path(__file__).parents[3]


def environment(url: str, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GUILDLLAMA_")}
    return {**kept, "GUILDLLAMA_DATABASE_URL": url, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


async def test_it_serves_and_ends(sqlite_url: str, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bot", "admin", "--port", "0", cwd=tmp_path, env=environment(sqlite_url),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    assert process.stderr
    line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
    link = re.search(r"http://127\.0\.0\.1:\d+/login/\S+", line)
    assert link, line
    async with httpx.AsyncClient(base_url=link[0].partition("/login")[0]) as client:
        page = await client.get(link[0])
        token = re.search(r'name="form_token" value="([^"]*)"', page.text)
        assert token
        origin = {"Origin": str(client.base_url).rstrip("/")}
        answer = await client.post(link[0], data={"form_token": token[1]}, headers=origin)
        assert answer.status_code == 303
        assert (await client.get("/settings")).status_code == 200
        assert "server" not in page.headers
    process.send_signal(signal.SIGTERM)
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    assert b"Traceback" not in errors
    assert link[0].rpartition("/")[2].encode() not in errors


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"GUILDLLAMA_ADMIN_HOST": "0.0.0.0"}, "guildllama admin password"),
        ({"GUILDLLAMA_ADMIN_HOST": "192.0.2.1", "GUILDLLAMA_ADMIN_PASSWORD_HASH": "x"}, "ADMIN_PASSWORD_HASH"),
        ({"GUILDLLAMA_ADMIN_URL": "https://x.example/path"}, "a scheme and a host"),
        ({"GUILDLLAMA_ADMIN_HOST": "localhost.invalid"}, "there is no password"),
        ({"GUILDLLAMA_DATABASE_URL": "sqlite:///missing.db"}, "GUILDLLAMA_DATABASE_URL"),
    ],
)
def test_what_cannot_work_is_one_line(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in ({"GUILDLLAMA_DATABASE_URL": sqlite_url} | more).items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(admin_app, [])
    assert done.exit_code == 78
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_port_in_use(sqlite_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import socket

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GUILDLLAMA_DATABASE_URL", sqlite_url)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = CliRunner().invoke(admin_app, ["--port", str(taken.getsockname()[1])])
    assert done.exit_code == 78
    assert "GUILDLLAMA_ADMIN_PORT" in done.stderr


def test_the_hash_of_a_password() -> None:
    done = CliRunner().invoke(admin_app, ["password"], input="a long enough one\n")
    found = re.fullmatch(r"GUILDLLAMA_ADMIN_PASSWORD_HASH='(.*)'\n", done.stdout)
    assert found
    settings = admin_settings(admin_password_hash=found[1])
    assert settings.admin_password_hash
    assert check_password("a long enough one", settings.admin_password_hash.get_secret_value())
    short = CliRunner().invoke(admin_app, ["password"], input="short\n")
    assert (short.exit_code, short.stdout) == (1, "")
    assert "12 to 256 characters" in short.stderr


def test_where_the_engines_figures_are() -> None:
    assert live_urls(admin_settings()) == ()
    assert live_urls(admin_settings(engine_url="http://10.0.0.1:8000/v1")) == ("http://10.0.0.1:8000/metrics",)
    assert live_urls(admin_settings(engine_url="http://a/v1,http://b:9/v1")) == (
        "http://a/metrics",
        "http://b:9/metrics",
    )
    assert live_urls(admin_settings(metrics_port=9464)) == ("http://127.0.0.1:9464/metrics",)
    assert live_urls(admin_settings(metrics_port=9464, metrics_host="::1")) == ("http://[::1]:9464/metrics",)
    assert live_urls(admin_settings(engine_url="http://a/v1", admin_metrics_url="http://b:9/m")) == ("http://b:9/m",)
