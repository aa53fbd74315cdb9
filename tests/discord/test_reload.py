"""SIGHUP: a running bot reads its settings again, applies what can change, and says what cannot."""

from __future__ import annotations

import os
import pty
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot.errors import ConfigError
from bot.reload import RELOADABLE, reload_settings
from bot.settings import Settings, load_settings
from tests.discord.harness import World, world
from tests.fork_server import ROOT, inherited_environment


@pytest.fixture
async def here(sqlite_url: str, tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / ".env").write_text("GUILDLLAMA_MAX_MESSAGE_CHARS=10\n")
    async with world(sqlite_url, tmp_path) as opened:
        yield opened


async def reload(here: World, text: str, logged: str) -> None:
    """Write .env, and wait until the bot has read it."""
    (here.folder / ".env").write_text(text)
    before = here.bot.log().count(logged)
    here.bot.send(signal.SIGHUP)
    await here.discord.until(lambda: here.bot.log().count(logged) > before)


async def test_a_limit_changes_while_the_bot_runs(here: World) -> None:
    guild, ann = await here.member()
    asked = await here.ask(guild, ann, "longer than ten")
    assert "10" in asked.reply()
    assert here.engine.requests == []

    await reload(here, "GUILDLLAMA_MAX_MESSAGE_CHARS=100\nGUILDLLAMA_TEMPERATURE=1.5\n", "were read again")
    assert "GUILDLLAMA_MAX_MESSAGE_CHARS" in here.bot.log()
    asked = await here.ask(guild, ann, "longer than ten")
    assert asked.reply() == "You said: longer than ten"
    assert here.engine.requests[-1].body["temperature"] == 1.5

    await reload(here, "GUILDLLAMA_MAX_MESSAGE_CHARS=5\nGUILDLLAMA_TOP_P=7\n", "stay as they were")
    asked = await here.ask(guild, ann, "longer than ten")
    assert asked.reply() == "You said: longer than ten"

    await reload(here, "GUILDLLAMA_MAX_MESSAGE_CHARS=100\nGUILDLLAMA_MAX_WAITING=7\n", "wait for a restart")
    assert "GUILDLLAMA_MAX_WAITING" in here.bot.log()
    assert await here.bot.stop() == 0


class TestSettings:
    def test_environment_wins_and_all_or_nothing_changes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("GUILDLLAMA_TOP_P", "0.5")
        settings = load_settings()
        (tmp_path / ".env").write_text("GUILDLLAMA_TOP_P=0.7\nGUILDLLAMA_RETENTION_DAYS=3\nGUILDLLAMA_GPUS=4\n")
        done = reload_settings(settings)
        assert done.applied == ("GUILDLLAMA_RETENTION_DAYS",)
        assert done.waiting == ("GUILDLLAMA_GPUS",)
        assert (settings.retention_days, settings.top_p, settings.gpus) == (3, 0.5, None)
        (tmp_path / ".env").write_text("GUILDLLAMA_RETENTION_DAYS=9\nGUILDLLAMA_TEMPERATURE=hot\n")
        with pytest.raises(ConfigError, match="TEMPERATURE"):
            reload_settings(settings)
        assert settings.retention_days == 3
        (tmp_path / ".env").unlink()
        assert reload_settings(settings).applied == ("GUILDLLAMA_RETENTION_DAYS",)
        assert settings == load_settings()

    def test_every_name_is_a_setting_and_documented(self):
        assert set(Settings.model_fields) >= RELOADABLE
        text = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
        listed = text.partition("<!-- reload -->")[2].partition("<!-- /reload -->")[0]
        assert {name.upper() for name in RELOADABLE} == set(listed.replace("`", " ").replace(",", " ").split()) - {""}


def test_a_bot_whose_terminal_was_closed_ends(tmp_path: Path) -> None:
    script = """
import asyncio
import signal
from bot.reload import reloaded_by_hangup
from bot.services import stopped_by_signals
from bot.settings import Settings
async def main():
    with stopped_by_signals(signal.SIGTERM), reloaded_by_hangup(Settings(_env_file=None)):
        open("ready", "w").close()
        await asyncio.sleep(60)
asyncio.run(main())
open("ended", "w").close()
"""
    pid, screen = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        environment = {**inherited_environment(), "PYTHONPATH": str(ROOT)}
        os.execve(sys.executable, [sys.executable, "-c", script], environment)
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    os.close(screen)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    assert (tmp_path / "ended").exists()
