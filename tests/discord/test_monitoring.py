"""What an operator sees of a running bot: its numbers, the fields of its log, and the traces of bot and engine."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from pathlib import Path

from tests.discord.harness import World, free_port, page, world
from tests.engine.server.process import GOLDEN, EngineProcess
from tests.fakes.collector import FakeCollector
from tests.selection import SQLITE

WORD = "xyzzy"


def lines(here: World) -> list[dict[str, object]]:
    """The log, which is JSON."""
    return [json.loads(line) for line in here.bot.log().splitlines() if line.startswith("{")]


@SQLITE
async def test_the_numbers_of_a_bot_that_answers_and_fails(database_url: str, tmp_path: Path) -> None:
    port = free_port()
    async with world(database_url, tmp_path, METRICS_PORT=str(port)) as here:
        guild, ann = await here.member()
        await here.ask(guild, ann, f"{WORD} hello")
        said = await here.mention(guild, ann, f"{WORD} again")
        await here.discord.answered(said)
        here.engine.fail(500, f"{WORD} is broken")
        await here.ask(guild, ann, f"{WORD} in vain")
        here.discord.fail("PATCH", r"/messages/@original", status=500, times=1)
        asked = await here.ask(guild, ann, f"{WORD} late")
        assert asked.messages()
        shown = await page(port)
        await here.discord.gateway.close(4000)
        await here.discord.until(lambda: sum(each.num_resumes for each in here.discord.gateway.connected) == 1)
        later = await page(port)
        assert await here.bot.stop() == 0
    events = "guildllama_bot_gateway_events_total"
    assert [later.sum(events, event=each) for each in ("lost", "resumed", "ready")] == [1, 1, 1]
    assert later["guildllama_bot_gateway_connected"] == 1
    turns = "guildllama_bot_turns_total"
    assert shown.sum(turns, kind="new", outcome="done") == 3
    assert shown.sum(turns, outcome="engine") == 1
    assert shown[turns] == 4
    assert (shown["guildllama_bot_waiting"], shown["guildllama_bot_running"]) == (0, 0)
    assert shown["guildllama_bot_queue_seconds_count"] == 4
    assert shown["guildllama_bot_first_token_seconds_count"] == 3
    assert shown["guildllama_bot_reply_seconds_count"] == 3
    assert shown["guildllama_bot_reply_tokens_total"] >= 3
    requests = "guildllama_bot_discord_requests_total"
    assert shown.sum(requests, route="acknowledge", status="2xx") == 3
    assert shown.sum(requests, route="edit", status="5xx") == 1
    assert shown.sum(requests, route="send", status="2xx") >= 1
    assert shown.sum("guildllama_bot_discord_request_seconds_count", route="acknowledge") == 3
    assert shown.sum("guildllama_bot_edits_total", kind="final", outcome="shown") >= 3
    assert shown["guildllama_bot_gateway_connected"] == 1
    assert shown.sum("guildllama_bot_gateway_events_total", event="ready") == 1
    assert shown["guildllama_bot_loop_lag_seconds_count"] >= 4
    assert shown.sum("guildllama_bot_database_seconds_count", kind="write") >= 8
    assert shown.sum("guildllama_bot_database_seconds_count", kind="read") >= 1
    assert shown["guildllama_bot_database_failures_total"] == 0
    assert shown.sum("guildllama_bot_cleanup_runs_total", outcome="done") == 1
    assert shown["guildllama_bot_cleanup_last_timestamp_seconds"] > 1.7e9
    assert shown["guildllama_bot_engine_up"] == 1
    assert shown.sum("guildllama_bot_info", engine="external", database="sqlite") == 1
    assert shown.sum("guildllama_bot_log_lines_total", level="warning") >= 1
    assert WORD not in shown.text
    assert not re.search(r"\d{15,}", re.sub(r"[-+.\de]+$", "", shown.text, flags=re.M)), "an id is no label"


@SQLITE
async def test_what_belongs_to_a_message_is_logged_with_its_guild_and_turn(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as here:
        guild, ann = await here.member()
        here.engine.fail(500, "broken")
        await here.ask(guild, ann, f"{WORD} in vain")
        assert await here.bot.stop() == 0
        logged = lines(here)
    [failed] = [line for line in logged if line["event"] == "no reply"]
    assert failed["guild"] == guild.id
    assert isinstance(failed["turn"], int)
    started = next(line for line in logged if line["event"] == "started")
    assert not {"guild", "turn", "trace"} & started.keys()
    assert WORD not in here.bot.log()


@SQLITE
async def test_a_trace_leads_from_the_gateway_to_the_engines_steps(database_url: str, tmp_path: Path) -> None:
    """Bot and engine are processes of their own, and send to one collector."""
    async with FakeCollector() as collector:
        with EngineProcess(
            "--model", str(GOLDEN / "llama2-tiny"), "--port", "0", "--device", "cpu", "--traces-url", collector.url,
            log=tmp_path / "engine.log",
        ) as engine:  # fmt: skip
            engine.ready()
            settings = {"TRACES_URL": collector.url, "ENGINE_URL": engine.url, "MAX_REPLY_TOKENS": "8"}
            async with world(database_url, tmp_path, PERSONA="x", **settings) as here:
                guild, ann = await here.member()
                await here.ask(guild, ann, WORD)
                assert await here.bot.stop() == 0
                logged = lines(here)
            await asyncio.to_thread(engine.terminate)  # the collector answers meanwhile
    bot, model = collector.of("guildllama"), collector.of("guildllama-engine")
    root = bot["message"]
    assert root.values["guildllama.guild"] == guild.id
    assert root.values["guildllama.kind"] == "new"
    assert root.values["guildllama.turn"] > 0
    assert "acknowledged" in root.events
    parts = {
        "queue",
        "begin transaction",
        "prompt",
        "generate",
        "stream",
        "finish transaction",
        "deliver",
        "show final",
    }
    assert parts <= bot.keys()
    assert {"request", "prepare", "queue", "prefill", "decode"} <= model.keys()
    assert {span.trace for span in collector.spans if span.name in {*parts, "request", "decode"}} == {root.trace}
    assert model["request"].parent == bot["stream"].id
    assert model["request"].values["guildllama.completion_tokens"] == root.values["guildllama.completion_tokens"]
    order = [root, bot["queue"], bot["stream"], model["request"], model["prefill"], model["decode"], bot["deliver"]]
    assert [span.begin for span in order] == sorted(span.begin for span in order)
    assert all(span.end >= span.begin for span in collector.spans)
    assert WORD.encode() not in b"".join(collector.bodies)
    assert str(ann.id).encode() not in b"".join(collector.bodies)
    assert all(line.get("trace") in {None, root.trace} for line in logged)


async def test_a_port_that_is_taken_ends_the_start_with_one_line(sqlite_url: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with world(sqlite_url, tmp_path, ready=False, METRICS_PORT=str(port)) as here:
            assert await here.bot.wait() == 78
            assert f"GUILDLLAMA_METRICS_PORT: 127.0.0.1:{port}" in here.bot.log().strip().splitlines()[-1]


@SQLITE
async def test_a_collector_that_is_away_delays_nothing(database_url: str, tmp_path: Path) -> None:
    away, waits = f"http://127.0.0.1:{free_port()}", {"bot.telemetry.span_export._FLUSH_SECONDS": 0.5}
    async with world(database_url, tmp_path, constants=waits, TRACES_URL=away) as here:
        guild, ann = await here.member()
        asked = await here.ask(guild, ann, f"{WORD} hello")
        assert "You said" in asked.messages()[0].content
        began = asyncio.get_running_loop().time()
        assert await here.bot.stop() == 0
        assert asyncio.get_running_loop().time() - began < 10
        assert WORD not in here.bot.log()
        assert here.bot.log().count("opentelemetry") == 0
