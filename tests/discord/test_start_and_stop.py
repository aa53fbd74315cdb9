"""How the bot starts, what it refuses to start with, and how it stops."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.discord.harness import BotProcess, World, world
from tests.fakes.discord.server import FakeDiscord
from tests.fakes.engine import Script


@pytest.fixture
async def fresh(sqlite_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with world(sqlite_url, tmp_path, LOG_LEVEL="DEBUG", SHUTDOWN_GRACE="2") as here:
        yield here


def only_line(bot: BotProcess) -> str:
    """The one line, without a traceback, that a failed start prints."""
    log = bot.log()
    assert "Traceback" not in log
    lines = [line for line in log.splitlines() if line.startswith("guildllama: ")]
    assert len(lines) == 1, log
    return lines[0]


@pytest.mark.parametrize("token", ["", "   ", "wrong.token.here"])
async def test_fault_44_a_bad_token_ends_in_one_line_and_78(sqlite_url: str, tmp_path: Path, token: str) -> None:
    async with world(sqlite_url, tmp_path, make_bot=BotProcess, ready=False, DISCORD_TOKEN=token) as here:
        assert await here.bot.wait() == 78
        assert "GUILDLLAMA_DISCORD_TOKEN" in only_line(here.bot)
        assert "wrong.token.here" not in here.bot.log()


@pytest.mark.parametrize("code", [4004, 4014])
async def test_fault_44_a_refusal_by_the_gateway_ends_in_one_line_and_78(
    sqlite_url: str, tmp_path: Path, code: int
) -> None:
    def refuse(discord: FakeDiscord) -> None:
        if code == 4004:
            discord.gateway.token = "another"
        else:
            discord.gateway.allowed_intents = 0

    async with world(sqlite_url, tmp_path, ready=False, before=refuse) as here:
        assert await here.bot.wait() == 78
        assert "GUILDLLAMA_DISCORD_TOKEN" in only_line(here.bot)


async def test_the_bot_waits_for_discord_to_come_back(sqlite_url: str, tmp_path: Path) -> None:
    def fail_at_first(discord: FakeDiscord) -> None:
        discord.fail("GET", "/users/@me", status=503)
        discord.fail("GET", "/users/@me", lose="request")

    async with world(sqlite_url, tmp_path, before=fail_at_first) as here:
        assert await here.bot.stop() == 0
        assert "Traceback" not in here.bot.log()
        assert "Unclosed" not in here.bot.log()


async def test_a_stop_during_login_is_clean(sqlite_url: str, tmp_path: Path) -> None:
    def away(discord: FakeDiscord) -> None:
        discord.fail("GET", "/users/@me", status=503, times=99)

    async with world(sqlite_url, tmp_path, ready=False, before=away) as here:
        await here.discord.until(lambda: here.discord.sent("GET", "/users/@me"))
        assert await here.bot.stop(timeout=10) == 0
        assert "Traceback" not in here.bot.log()


async def test_fault_44_without_an_engine_the_bot_says_so_and_answers_once_it_runs(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with world(sqlite_url, tmp_path, ready=False) as here:
        await here.engine.stop()
        await here.discord.until_ready()
        guild, ann = await here.member()
        told = await here.ask(guild, ann, "Anybody there?")
        assert told.messages()[0].ephemeral
        assert "model" in told.reply()
        await here.engine.start()
        for _ in range(20):
            asked = await here.ask(guild, ann, "And now?")
            if asked.reply() == "You said: And now?":
                break
            await asyncio.sleep(0.5)
        assert asked.reply() == "You said: And now?"
        assert not asked.messages()[0].ephemeral
        assert len(here.engine.requests[-1].messages) == 2  # a refused message is not remembered


async def test_commands_are_registered_only_when_they_differ(fresh: World) -> None:
    puts = fresh.discord.sent("PUT", "/commands")
    assert len(puts) == 1
    await fresh.bot.stop()
    await fresh.start_bot()
    assert len(fresh.discord.sent("PUT", "/commands")) == 1
    fresh.discord.rest.commands[0]["description"] = "Something else"
    await fresh.bot.stop()
    await fresh.start_bot()
    await fresh.discord.until(lambda: len(fresh.discord.sent("PUT", "/commands")) == 2)
    guild, ann = await fresh.member()
    assert (await fresh.ask(guild, ann, "Hello")).reply() == "You said: Hello"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_fault_04_a_running_reply_may_finish_and_new_ones_are_refused(
    fresh: World, number: signal.Signals
) -> None:
    guild, ann = await fresh.member()
    bob = fresh.discord.user("bob")
    fresh.engine.hang("Let me ", "finish")
    running = await fresh.discord.chat(guild, ann, "Go on")
    await fresh.discord.until(lambda: "finish" in running.reply())
    fresh.bot.send(number)
    await asyncio.sleep(0.3)
    refused = await fresh.ask(guild, bob, "Me too")
    assert "being restarted" in refused.reply()
    assert refused.messages()[0].ephemeral
    fresh.engine.release()
    await fresh.discord.done(running)
    assert running.reply() == "Let me finish"
    assert await fresh.bot.wait() == 0
    assert fresh.discord.token not in fresh.bot.log()  # the log is at DEBUG here
    assert running.token not in fresh.bot.log()
    for text in ("Traceback", "was destroyed", "Unclosed", "never awaited"):
        assert text not in fresh.bot.log()


async def test_fault_04_a_reply_that_takes_too_long_is_cut_off_and_says_so(fresh: World) -> None:
    guild, ann = await fresh.member()
    fresh.engine.hang("I will never ", "finish")
    running = await fresh.discord.chat(guild, ann, "Go on")
    await fresh.discord.until(lambda: "finish" in running.reply())
    fresh.bot.send(signal.SIGTERM)
    assert await fresh.bot.wait() == 0
    assert "restarted" in running.reply()
    assert running.messages()[0].ephemeral
    await fresh.start_bot()
    await fresh.ask(guild, ann, "Again")
    assert "Go on" not in str(fresh.engine.requests[-1].messages)


async def test_fault_45_no_token_is_in_the_debug_log(fresh: World) -> None:
    guild, ann = await fresh.member()
    fresh.discord.fail("PATCH", "@original", retry_after=0.2)
    asked = await fresh.ask(guild, ann, "A secret message")
    fresh.discord.fail("PATCH", "@original", status=401, code=50027)
    await fresh.discord.chat(guild, ann, "Another")
    await fresh.discord.until(lambda: fresh.discord.posts(guild))
    log = fresh.bot.log()
    for secret in (fresh.discord.token, asked.token, "A secret message"):
        assert secret not in log


async def test_b11_a_heartbeat_goes_on_while_replies_are_written(sqlite_url: str, tmp_path: Path) -> None:
    def strict(discord: FakeDiscord) -> None:
        discord.gateway.heartbeat_interval = 0.5

    async with world(sqlite_url, tmp_path, before=strict) as here:
        people = [await here.member(f"member{number}") for number in range(12)]
        for _ in people:
            here.engine.reply(*(f"word{number} " for number in range(300)), pace=0.008)
        asked = [await here.discord.chat(guild, user, "Talk") for guild, user in people]
        await here.discord.until(lambda: all(each.texts() and "word299" in each.texts()[-1] for each in asked))
        assert here.discord.gateway.num_zombies == 0
        assert here.discord.gateway.connected[0].num_heartbeats >= 4


async def test_fault_07_two_bots_with_one_token_answer_each_interaction_once(fresh: World) -> None:
    await fresh.start_bot()
    guild, ann = await fresh.member()
    people = [ann, *(fresh.discord.user(f"member{number}") for number in range(7))]
    asked = [await fresh.discord.chat(guild, user, f"I am {user.name}") for user in people]
    await fresh.discord.done(*asked)
    assert [each.reply() for each in asked] == [f"You said: I am {user.name}" for user in people]
    assert all(len(each.messages()) == 1 for each in asked)
    assert len(fresh.engine.requests) == len(people)


async def test_buttons_and_modals_of_an_earlier_run_still_work(fresh: World) -> None:
    guild, boss = await fresh.member("boss", manager=True)
    opened = await fresh.use(guild, boss, "persona set")
    fresh.engine.hang("So")
    asked = await fresh.discord.chat(guild, boss, "Talk")
    await fresh.discord.until(lambda: asked.messages() and asked.messages()[0].buttons())
    await fresh.bot.kill()
    fresh.discord.fail("PATCH", asked.token, status=503)  # the first attempt to edit the interrupted reply fails
    await fresh.start_bot()
    await fresh.discord.until(lambda: fresh.discord.sent("PATCH", asked.token, ok=False))
    sent = await fresh.discord.submit(opened, prompt="You are a gardener.", name="Rose")
    await fresh.discord.done(sent)
    assert "**Rose**" in sent.reply()
    clicked = await fresh.discord.click(asked.messages()[0], boss)
    await fresh.discord.until(lambda: clicked.followups)
    assert "not writing" in clicked.followups[0].content
    assert not asked.messages()[0].buttons()
    await fresh.discord.until(lambda: "I was restarted" in asked.reply())


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path, sqlite_template: Path) -> None:
    damaged = tmp_path / "damaged.db"
    shutil.copy(sqlite_template, damaged)
    damaged.write_bytes(b"not a database" * 1000)
    async with world(f"sqlite:///{damaged}", tmp_path, ready=False) as here:
        assert await here.bot.wait() == 78
        assert "GUILDLLAMA_DATABASE_URL" in only_line(here.bot)


async def test_fault_06_a_full_queue_refuses_at_once(sqlite_url: str, tmp_path: Path) -> None:
    async with world(sqlite_url, tmp_path, MAX_WAITING="3") as here:
        here.engine.default = lambda request: Script(deltas=(f"You said: {request.last}",), pace=3.0)
        guild, _ = await here.member()
        people = [here.discord.user(f"member{number}") for number in range(6)]
        asked = [await here.discord.chat(guild, user, "Hello") for user in people]
        await here.discord.until(lambda: sum("try again" in each.reply() for each in asked) == 3, timeout=2.8)
        refused = [each for each in asked if "try again" in each.reply()]
        assert all(each.messages()[0].ephemeral for each in refused)
        await here.discord.done(*asked)
        assert [each.reply() for each in asked if each not in refused] == ["You said: Hello"] * 3
        assert len(here.engine.requests) == 3
