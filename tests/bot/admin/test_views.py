"""Charts, differences, live figures: what they make of any values, texts and pages of strangers."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.admin.pages.overview import server_rows
from bot.admin.views.charts import chart, histogram, quantile, share, short_number
from bot.admin.views.differences import differences
from bot.admin.views.kept_figures import FRESH, KeptFigures
from bot.admin.views.live import LiveFigures
from models.database import Database
from tests.bot.admin.admin_kit import BOT, browser, fill, raw
from tests.bot.admin.story import METRICS


class TestCharts:
    @settings(max_examples=30)
    @given(st.lists(st.floats(0, 1e15), max_size=40))
    def test_every_bar_is_inside(self, values: list[float]) -> None:
        drawn = chart("T", [(str(index), value) for index, value in enumerate(values)], "u", axis="x")
        for point in drawn.points:
            assert drawn.left <= point.x
            assert point.x + point.width <= drawn.width
            assert point.y >= 0
            assert point.y + point.height <= drawn.height
        assert [point.text for point in drawn.points] == [short_number(value) for value in values]
        assert all(0 <= line.y <= drawn.height for line in drawn.grid)

    def test_the_highest_bar_is_as_high_as_its_number(self) -> None:
        drawn = chart("T", [("a", 30), ("b", 60)], "u", axis="x")
        assert drawn.points[1].height == pytest.approx(2 * drawn.points[0].height, abs=0.2)
        assert [line.text for line in drawn.grid] == ["0", "30", "60"]

    def test_numbers_are_short(self) -> None:
        assert [short_number(each) for each in (0, 1.5, 999, 9_999, 12_345, 2_500_000, 3e9)] == [
            "0", "1.50", "999", "9,999", "12.35k", "2.5M", "3G",
        ]  # fmt: skip

    def test_histogram_and_quantiles(self) -> None:
        assert histogram([0.1, 0.2, 5, 99], (0.2, 5), "s") == [("≤ 0.2 s", 2), ("≤ 5 s", 1), ("> 5 s", 1)]
        assert quantile([], 50) is None
        assert quantile([4, 1, 2, 3], 50) == 2.5
        assert quantile([1], 99) == 1

    def test_shares_stay_between_nothing_and_all(self) -> None:
        for used, held, total in ((5, 0, 0), (9, 9, 10), (-1, 0, 10), (20, 5, 10)):
            found = share(used, held, total)
            assert 0 <= found.used <= found.used + found.held <= 1


class TestDifferences:
    def test_words_of_changed_lines(self) -> None:
        found = differences("one two\nsame", "one three\nsame\nnew")
        assert [(line.kind, line.pieces) for line in found] == [
            ("gone", (("same", "one "), ("gone", "two"))),
            ("new", (("same", "one "), ("new", "three"))),
            ("same", (("same", "same"),)),
            ("new", (("new", "new"),)),
        ]

    @settings(max_examples=30)
    @given(st.text(max_size=80), st.text(max_size=80))
    def test_both_texts_are_in_it(self, before: str, after: str) -> None:
        found = differences(before, after)
        for kind, text in (("new", before), ("gone", after)):
            lines = ["".join(piece for _, piece in line.pieces) for line in found if line.kind != kind]
            assert lines == (text.splitlines() or [""])

    def test_hostile_texts_do_not_hang(self) -> None:
        began = time.monotonic()
        differences("\n".join("ab"[n % 2] for n in range(1990)), "\n".join("ba"[n % 2] for n in range(1985)))
        differences("a b " * 12_000, "b a " * 12_000)
        differences("\n" * 24_000, "x\n" * 24_000)
        assert time.monotonic() - began < 10


class TestLive:
    async def serve(self, body: bytes, status: bytes = b"200 OK") -> LiveFigures:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(
                b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
            )
            writer.close()

        now = iter(range(0, 100, 10))
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            live = LiveFigures([f"http://127.0.0.1:{port}/metrics"], lambda: float(next(now)))
            await live.read()
            await live.read()
        return live

    async def test_our_engines_page(self) -> None:
        live = await self.serve(METRICS.format(tokens=500).encode())
        assert live.problem is None
        assert live.readings[-1].get("kv_total_tokens") == 65536
        assert live.readings[-1].prefix_hits == pytest.approx(0.7518, abs=1e-3)
        assert [speed for _, speed in live.speeds()] == [0]

    @pytest.mark.parametrize(
        "body",
        [b"", b"<html>", b"a{b=\"c} 1", b"\xff\xfe\x00", b"guildllama_engine_running NaN\n", b"x 1e999\n", b"x{" * 1000,
         b"vllm:num_requests_running{model=\"m\"} 3\n", b"# TYPE x histogram\nx_bucket 1\n"],
    )  # fmt: skip
    async def test_any_other_page(self, body: bytes) -> None:
        live = await self.serve(body)
        assert all(each.get("running") is None for each in live.readings)
        assert live.problem or len(live.readings) == 2

    async def test_errors_and_nobody_there(self) -> None:
        assert (await self.serve(b"no", b"500 Oops")).problem == "HTTPStatusError"
        live = LiveFigures(["http://127.0.0.1:9/metrics"])
        await live.read()
        assert live.problem == "ConnectError"

    async def test_several_servers_on_the_bots_page_are_added_up_and_shown_apart(self, sqlite_url: str) -> None:
        body = b"""guildllama_bot_replica_state{replica="1",state="well"} 1
guildllama_bot_replica_state{replica="2",state="well"} 0
guildllama_bot_replica_state{replica="2",state="away"} 1
guildllama_engine_running{replica="1"} 3
guildllama_engine_running{replica="10"} 4
guildllama_engine_generated_tokens_total{replica="1"} 100
guildllama_engine_generated_tokens_total{replica="10"} 7
guildllama_engine_kv_used_tokens{replica="1"} 1
guildllama_engine_kv_total_tokens{replica="1"} 4
"""
        live = await self.serve(body)
        now = live.readings[-1]
        assert list(now.servers) == ["1", "2", "10"]
        assert (now.get("running"), now.get("generated_tokens_total"), now.get("waiting")) == (7, 107, None)
        assert [row[:3] for row in server_rows(live)] == [("1", "well", "3"), ("2", "away", "–"), ("10", "–", "4")]
        assert server_rows(live)[0][4] == "25.0%"
        database = Database(sqlite_url, guarded=True)
        await fill(database)
        async with browser(database) as here:
            await here.sign_in()
            here.admin.live.readings.extend(live.readings)
            page = await here.page(f"/a/{BOT}")
            assert "Table of servers" in page
            assert "25.0%" in page
        await database.close()

    async def test_servers_of_several_models_have_their_names(self) -> None:
        live = await self.serve(
            b"""guildllama_engine_running{model="m"} 0
guildllama_bot_replica_state{model="large",replica="10",state="well"} 1
guildllama_engine_running{model="default"} 3
guildllama_engine_running{model="large",replica="1"} 4
guildllama_bot_replica_state{model="large",replica="2",state="away"} 1
"""
        )
        assert [(name, server.state) for name, server in live.readings[-1].servers.items()] == [
            ("default", ""), ("large 1", ""), ("large 2", "away"), ("large 10", "well"), ("m", ""),
        ]  # fmt: skip
        assert live.readings[-1].get("running") == 7

    async def test_the_pages_of_several_servers_are_read(self) -> None:
        """One of them is away, and one starts anew between the readings."""
        tokens = {"a": iter((100, 400)), "b": iter((1000, 50))}

        def serving(name: str):
            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                body = b"guildllama_engine_generated_tokens_total %d\n" % next(tokens[name])
                writer.write(
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                )
                writer.close()

            return asyncio.start_server(answer, "127.0.0.1", 0)

        now = iter((0, 10))
        async with await serving("a") as first, await serving("b") as second:
            ports = [server.sockets[0].getsockname()[1] for server in (first, second)]
            live = LiveFigures(
                [*(f"http://127.0.0.1:{port}/metrics" for port in ports), "http://127.0.0.1:9/metrics"],
                lambda: float(next(now)),
            )
            await live.read()
            await live.read()
        assert live.problem == "ConnectError"
        assert live.readings[-1].get("generated_tokens_total") == 450
        assert [speed for _, speed in live.speeds()] == [(300 + 50) / 10]
        assert [(row[0], row[1]) for row in server_rows(live)] == [("1", "–"), ("2", "–"), ("3", "not read")]

    async def test_on_the_overview(self, sqlite_url: str) -> None:
        database = Database(sqlite_url, guarded=True)
        await fill(database)
        async with browser(database, admin_metrics_url="http://127.0.0.1:9/metrics") as here:
            await here.sign_in()
            await here.admin.live.read()
            assert "could not be read (ConnectError)" in await here.page(f"/a/{BOT}")
            here.admin.live.readings.extend((await self.serve(METRICS.format(tokens=5).encode())).readings)
            page = await here.page(f"/a/{BOT}")
            assert "18,432 of 65,536 tokens" in page
            assert 'aria-label="KV cache: 28 % in use"' in page
        await database.close()


async def test_figures_are_kept_for_a_minute(sqlite_url: str) -> None:
    now, database = [0.0], Database(sqlite_url)
    await fill(database)
    kept, ours = KeptFigures(lambda: now[0]), database.for_application(BOT)
    days, figures = await kept.read(ours)
    assert (days[-1].messages, days[-1].members, figures.num_guilds, len(days)) == (5, 4, 2, 30)
    await raw(database, "UPDATE daily_usage SET turns = 100")
    assert (await kept.read(ours))[0][-1].messages == 5
    now[0] = FRESH + 1
    assert (await kept.read(ours))[0][-1].messages == 500
    assert (await kept.read(database))[0][-1].messages == 0  # another application
    await database.close()
