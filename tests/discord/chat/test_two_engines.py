"""The bot between Discord and two engines, one of which goes."""

from __future__ import annotations

from pathlib import Path

from tests.discord.harness import world
from tests.fakes.engine import FakeEngine


async def test_members_notice_nothing_when_one_of_two_engines_goes(sqlite_url: str, tmp_path: Path) -> None:
    async with FakeEngine() as one, FakeEngine() as two:
        urls = ",".join(engine.url.replace("http://", "http://ann:secret@") for engine in (one, two))
        async with world(sqlite_url, tmp_path, ENGINE_URL=urls) as here:
            places = [await here.member(f"ann{number}") for number in range(6)]
            for guild, user in places:
                await here.ask(guild, user, "hello")
            assert one.requests
            assert two.requests
            await one.stop()
            for guild, user in places:
                asked = await here.ask(guild, user, "again")
                assert asked.reply() == "You said: again"
            log = here.bot.log()
            assert f'"replica": "1 (127.0.0.1:{one.port})"' in log
            assert f"1 (127.0.0.1:{one.port}), 2 (127.0.0.1:{two.port})" in log, "the first line names both"
            assert "secret" not in log
            assert "Traceback" not in log
