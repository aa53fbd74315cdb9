"""The page of numbers: what stands on it, whatever the engine answers, and who may read it."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest

from bot.engine_client.replicas.report import ReplicaReport
from bot.errors import ConfigError
from bot.settings import Settings
from bot.telemetry import page as page_module
from bot.telemetry.page import MAX_ENGINE_CHARS, MetricsPage, engine_families
from bot.telemetry.server import monitored
from engine.core.stats import STEP_BOUNDS, WAIT_BOUNDS, EngineStats, Histogram
from engine.server.metrics import Metrics
from tests.bot.metric_values import Page


def engine_text() -> str:
    """What our engine answers."""
    histograms = Histogram(STEP_BOUNDS), Histogram(WAIT_BOUNDS), Histogram(WAIT_BOUNDS)
    stats = EngineStats(3, 4, 5, 6, 7, 0, 0, 0, 0, 0, 0, 0, 0, 11, 0, 12, {}, *histograms, rank_memory=(1, 2))
    return Metrics(lambda: stats).render().decode()


class FakeEngine:
    def __init__(self, *texts: str, ready: bool = True, seconds: float = 0.0) -> None:
        self.texts, self.is_ready, self.seconds, self.num_asked = texts, ready, seconds, 0
        self.replicas: tuple[ReplicaReport, ...] = ()

    async def ready(self) -> bool:
        return self.is_ready

    def reports(self) -> tuple[ReplicaReport, ...]:
        return self.replicas

    async def metrics_pages(self) -> tuple[str, ...]:
        self.num_asked += 1
        await asyncio.sleep(self.seconds)
        return self.texts


@dataclass(frozen=True)
class Models:
    engines: Mapping[str, FakeEngine]


@asynccontextmanager
async def served(**settings: object) -> AsyncIterator[tuple[MetricsPage, int]]:
    """A page on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = {"metrics_port": port, **settings}
    async with monitored(Settings(_env_file=None, **given)) as page:  # type: ignore[arg-type]
        yield page, port


async def get(port: int, path: str = "/metrics", *, method: str = "GET", **headers: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://127.0.0.1:{port}{path}", headers=headers) as response,
    ):
        return response.status, await response.text()


async def test_the_page_has_the_bots_numbers_and_the_engines_by_the_names_that_it_gives_them() -> None:
    async with served() as (page, port):
        assert Page((await get(port))[1])["guildllama_bot_engine_up"] == 0  # there is none yet
    async with served() as (page, port):
        page.models = Models({"default": FakeEngine(engine_text())})
        shown = Page((await get(port))[1])
    assert shown["guildllama_bot_engine_up"] == 1
    assert shown["guildllama_bot_engine_metrics_up"] == 1
    assert shown["guildllama_engine_running"] == 3
    assert shown["guildllama_engine_waiting"] == 4
    assert shown["guildllama_engine_steps_total"] == 12
    assert shown.sum("guildllama_engine_rank_memory_bytes", rank="1") == 2
    assert shown["process_resident_memory_bytes"] > 1e6
    given = Page(engine_text()).names
    assert {name for name in given if name.startswith("guildllama_engine_")} <= shown.names


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>not found</html>",
        "guildllama_engine_running many\n",
        "guildllama_engine_running{rank=\n",
        '{"error": "no"}',
        "\x00\xff" * 100,
        "guildllama_bot_turns_total 5\nprocess_open_fds 7\n",
        "vllm:num_requests_running 3\n",
        "guildllama_engine_running 1\n" * (MAX_ENGINE_CHARS // 20),
    ],
    ids=["nothing", "html", "word", "open label", "json", "bytes", "our names", "vllm", "too long"],
)
async def test_what_another_server_answers_does_not_spoil_the_page(text: str) -> None:
    assert engine_families(text) == []
    page = MetricsPage()
    page.models = Models({"default": FakeEngine(text)})
    shown = Page((await page.text()).decode())
    assert shown["guildllama_bot_engine_metrics_up"] == 0
    assert shown["guildllama_bot_engine_up"] == 1
    assert not any(name.startswith(("vllm", "guildllama_engine")) for name in shown.names)


async def test_how_each_of_several_servers_is() -> None:
    engine = FakeEngine("", "")
    engine.replicas = (
        ReplicaReport(1, "10.0.0.5:8000", "well", "llama", 8192, 3, 16),
        ReplicaReport(2, "10.0.0.6:8000", "away", None, None, 0, None),
    )
    shown = await shown_of({"default": engine})
    name = "guildllama_bot_replica"
    assert shown.sum(f"{name}_info", replica="1", server="10.0.0.5:8000", serves="llama") == 1
    assert [shown.sum(f"{name}_state", replica="2", state=each) for each in ("well", "away")] == [0, 1]
    assert shown.sum(f"{name}_in_flight", replica="1") == 3
    assert shown.sum(f"{name}_limit") == 16
    shown = await shown_of({"default": FakeEngine(""), "large": engine})
    assert shown.sum(f"{name}_in_flight", model="large", replica="1") == 3
    shown = await shown_of({"default": FakeEngine("")})
    assert not any(each.startswith(name) for each in shown.names)


async def shown_of(engines: dict[str, FakeEngine]) -> Page:
    page = MetricsPage()
    page.models = Models(engines)
    return Page((await page.text()).decode())


async def test_the_numbers_of_several_servers_are_told_apart() -> None:
    page = MetricsPage()
    page.models = Models(
        {
            "default": FakeEngine(
                "guildllama_engine_running 1\n", "vllm:num_requests_running 3\n", "guildllama_engine_running 2\n"
            )
        }
    )
    shown = Page(text := (await page.text()).decode())
    assert text.count("# TYPE guildllama_engine_running") == 1
    assert [shown.sum("guildllama_engine_running", replica=number) for number in ("1", "3")] == [1, 2]


async def test_the_numbers_of_several_models_are_told_apart() -> None:
    page = MetricsPage()
    running = "guildllama_engine_running"
    large = FakeEngine(f"{running} 2\n", f"{running} 3\n", ready=False)
    page.models = Models({"default": FakeEngine(f"{running} 1\n"), "large": large})
    shown = Page(text := (await page.text()).decode())
    assert text.count(f"# TYPE {running}") == 1
    assert shown.sum(running, model="default") == 1
    assert [shown.sum(running, model="large", replica=number) for number in ("1", "2")] == [2, 3]
    assert shown["guildllama_bot_engine_up"] == 1
    assert shown.sum("guildllama_bot_model_up", model="large") == 0


async def test_a_family_that_comes_twice_is_on_the_page_once() -> None:
    page = MetricsPage()
    page.models = Models({"default": FakeEngine("# TYPE guildllama_engine_up gauge\nguildllama_engine_up 1\n" * 2)})
    assert (await page.text()).decode().count("# TYPE guildllama_engine_up gauge") == 1


async def test_an_engine_that_does_not_answer_holds_the_page_up_for_seconds_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(page_module, "SCRAPE_SECONDS", 0.1)
    page = MetricsPage()
    page.models = Models({"default": FakeEngine(engine_text(), seconds=60)})
    async with asyncio.timeout(5):
        shown = Page((await page.text()).decode())
    assert shown["guildllama_bot_engine_up"] == 0


async def test_many_who_ask_at_once_cost_the_engine_one_request() -> None:
    async with served() as (page, port):
        engine = FakeEngine(engine_text(), seconds=0.05)
        page.models = Models({"default": engine})
        answers = await asyncio.gather(*(get(port) for _ in range(20)))
    assert {status for status, _ in answers} == {200}
    assert engine.num_asked == 1


async def test_only_the_page_is_served_and_only_to_names_of_this_machine() -> None:
    async with served() as (_, port):
        assert (await get(port, "/"))[0] == 404
        assert (await get(port, "/metrics/../etc"))[0] == 404
        assert (await get(port, method="POST"))[0] == 405
        assert (await get(port, Host="evil.example"))[0] == 403
        for name in ("localhost", f"localhost:{port}", "127.0.0.1", "[::1]:80"):
            assert (await get(port, Host=name))[0] == 200, name
    async with served(metrics_host="0.0.0.0", metrics_allow_remote=True) as (_, port):
        assert (await get(port, Host="bot.internal"))[0] == 200


async def test_a_port_that_is_taken_is_one_line() -> None:
    async with served() as (_, port):
        with pytest.raises(ConfigError) as caught:
            async with monitored(Settings(_env_file=None, metrics_port=port)):
                pass
    assert caught.value.line.startswith("GUILDLLAMA_METRICS_PORT: 127.0.0.1:")
    assert "\n" not in caught.value.line


async def test_without_a_port_nothing_listens() -> None:
    async with monitored(Settings(_env_file=None)) as page:
        assert page.models is None


async def test_traces_without_the_extra_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'guildllama\[traces\]'"):
        async with monitored(Settings(_env_file=None, traces_url="http://127.0.0.1:4318")):
            pass
