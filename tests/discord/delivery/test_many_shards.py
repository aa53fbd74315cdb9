"""Several processes that share the shards of one application, while processes are killed, stopped and started anew.

Members use /chat. What no session heard, the member says again, as people do; what a process has acknowledged must
come to an end that the member sees, and no message may get two answers. With 2,000 guilds: tests/bench/shards.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.discord.delivery.shard_kit import (
    ANSWERED,
    QUICK,
    SETTINGS,
    Figures,
    Traffic,
    add_guilds,
    all_online,
    check_all,
    kill_again_and_again,
    processes,
    said,
    shared_out,
    slowly,
    start_another,
)
from tests.discord.harness import world
from tests.fakes.discord.server import Guild

SOON_STOPPED = {"bot.cluster.leases.STOPPED_AFTER": 2.0, "bot.chat.recovery.INTERVAL": 1.0}
RESTARTED = "I was restarted while I was writing this answer. Please ask again."
LOST_PLACE = "I was restarted before I came to your message. Please ask again."
LEADS = "this process leads: it cleans up and registers the commands"


async def test_one_process_has_several_shards(sqlite_url: str, tmp_path: Path) -> None:
    made: list[Guild] = []
    settings = {**SETTINGS, "SHARDS": "0-2/3"}
    async with world(
        sqlite_url, tmp_path, ready=False, before=lambda discord: made.extend(add_guilds(discord, 3)), constants=QUICK,
        **settings,
    ) as here:  # fmt: skip
        await all_online(here, 3)
        await here.discord.until(lambda: bool(here.discord.rest.commands))
        ann = here.discord.user("ann")
        asked = await asyncio.gather(*(here.ask(guild, ann, "hello") for guild in made))
        assert [each.reply() for each in asked] == ["You said: hello"] * 3
        assert len(said(here.bot, "commands were registered")) == 1
        assert len(here.discord.gateway.connected) == 3
        assert await here.bot.stop() == 0
        assert "Traceback" not in here.bot.log()


async def test_two_processes_share_the_shards_and_one_takes_over(postgres_url: str, tmp_path: Path) -> None:
    async with processes(postgres_url, tmp_path, shards=2, guilds=4) as (here, guilds):
        ann = here.discord.user("ann")
        first = here.bot
        await here.discord.until(lambda: bool(said(first, "commands were registered")))
        second = await start_another(here)
        await here.discord.until(lambda: len(said(second, "on Discord")) == 1, timeout=30)
        await all_online(here, 2)
        assert len(said(second, "commands were registered")) == 0, "the leader has done so"
        for guild in guilds:
            await here.ask(guild, ann, "hello")
        await first.kill()
        await all_online(here, 2)
        for guild in guilds:
            asked = await here.ask(guild, ann, "again")
            assert asked.reply() == "You said: again"
        await here.discord.until(lambda: bool(said(second, "cleanup done")), timeout=30)
        assert len(said(second, LEADS)) == 1
        assert await second.stop() == 0
        for bot in (first, second):
            assert "Traceback" not in bot.log(), bot.log()[-3000:]


@pytest.mark.long
async def test_a_leader_that_was_stopped_does_not_act_on_what_it_no_longer_holds(
    postgres_url: str, tmp_path: Path
) -> None:
    async with processes(postgres_url, tmp_path, shards=4, guilds=8, constants={**QUICK, **SOON_STOPPED}) as (
        here,
        guilds,
    ):
        ann, first = here.discord.user("ann"), here.bot
        second = await start_another(here)
        await here.discord.until(lambda: len(said(second, "on Discord")) >= 2, timeout=40)
        await here.discord.until(lambda: bool(said(first, "cleanup done")), timeout=30)
        os.kill(first.process.pid, signal.SIGSTOP)
        # Heartbeats are overdue after four intervals; then its connection is ended.
        await here.discord.until(lambda: bool(said(second, "cleanup done")), timeout=60)
        await here.discord.until(
            lambda: any(len(line["shards"]) == 4 for line in said(second, "shards of this process")), timeout=30
        )
        await asyncio.sleep(5)
        cleanups = len(said(first, "cleanup done"))
        os.kill(first.process.pid, signal.SIGCONT)
        await here.discord.until(lambda: bool(said(first, "the leases cannot be held now")), timeout=30)
        asked = await asyncio.gather(*(here.ask(guild, ann, "hello") for guild in guilds))
        assert {each.reply() for each in asked} == {"You said: hello"}
        await asyncio.sleep(3)
        assert len(said(first, "cleanup done")) == cleanups, "it cleans up no more"
        assert len(said(first, LEADS)) == 1


@pytest.mark.long
async def test_processes_that_are_killed_lose_nothing_and_say_nothing_twice(postgres_url: str, tmp_path: Path) -> None:
    figures = Figures()
    async with processes(postgres_url, tmp_path, shards=16, guilds=200, CLEANUP_INTERVAL="5s") as (here, guilds):
        for _ in range(3):
            await start_another(here)
        await shared_out(here, 4)
        here.engine.default = slowly
        traffic = Traffic(here, guilds, figures, rate=6)
        asking = asyncio.create_task(traffic.run())
        await kill_again_and_again(here, figures, seconds=60, every=6, shards=16)
        traffic.ended = True
        await asyncio.wait_for(asking, 120)
        await check_all(here, traffic)
    times = figures.times_ms()
    sys.stdout.write(f"{figures.outcomes} p99 {times[int(len(times) * 0.99)]:.0f} ms, {figures.not_heard} not heard\n")
    assert len(figures.kills) >= 3
    assert figures.outcomes[ANSWERED] > len(times) * 0.8
    assert set(figures.outcomes) <= {ANSWERED, RESTARTED, LOST_PLACE}
