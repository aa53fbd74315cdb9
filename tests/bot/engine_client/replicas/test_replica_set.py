"""Two and three servers as one engine: where tenants are, and what happens when a server fails in each way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from bot.engine_client.errors import ContextExceeded, PromptRefused
from bot.engine_client.messages import Delta
from bot.engine_client.replicas import condition as condition_module
from bot.engine_client.replicas.replica_set import ReplicaSet
from bot.errors import Busy, EngineRefused, EngineUnavailable
from tests.bot.engine_client.replicas.replica_kit import (
    HELLO,
    ask,
    eventually,
    numbers,
    replica_set,
    salt_of,
    states,
    stream,
)
from tests.fakes.engine import FakeEngine
from tests.fakes.engine.script import Script
from tests.fakes.engine.wire import WireServer, endless, refusing


@pytest.fixture
async def servers() -> AsyncIterator[list[FakeEngine]]:
    async with FakeEngine() as one, FakeEngine() as two, FakeEngine() as three:
        yield [one, two, three]


@pytest.fixture
async def engine(servers: list[FakeEngine]) -> AsyncIterator[ReplicaSet]:
    async with replica_set(*(server.url for server in servers)) as engine:
        yield engine


async def test_a_tenant_stays_with_its_server(engine: ReplicaSet, servers: list[FakeEngine]) -> None:
    tenants = {*map(str, range(12)), *(salt_of(engine, number) for number in (1, 2, 3))}  # some at each server
    for salt in [*tenants] * 3:
        await ask(engine, salt)
        await engine.count(HELLO, cache_salt=salt)
    seen = [{request.body["cache_salt"] for request in server.requests} for server in servers]
    assert all(seen)
    assert sum(map(len, seen)) == len(tenants), "no tenant was at two servers"
    for server, salts in zip(servers, seen, strict=True):
        assert server.calls.count("/tokenize") == 3 * len(salts), "its prompts are counted where they are cached"


class TestBeforeTheFirstToken:
    """Another server is asked, and the tenant's own one gets nothing while it is not well."""

    async def test_a_server_that_is_gone(self, engine: ReplicaSet, servers: list[FakeEngine]):
        salt = salt_of(engine, 2)
        await servers[1].stop()
        assert await ask(engine, salt) == "You said: hello there"
        assert states(engine) == ["well", "away", "well"]
        first = numbers(servers)
        await ask(engine, salt)
        assert numbers(servers) == [count * 2 for count in first], "the tenant has one other server, not two"

    @pytest.mark.parametrize("status", [500, 502, 401, 404])
    async def test_a_server_that_refuses_everything(
        self, engine: ReplicaSet, servers: list[FakeEngine], status: int
    ) -> None:
        salt = salt_of(engine, 1)
        servers[0].default = lambda request: Script(status=status, error={"message": "no"})
        for _ in range(4):
            assert await ask(engine, salt) == "You said: hello there"
        assert len(servers[0].requests) == condition_module.MAX_FAILURES, "then it rests"
        assert states(engine)[0] == "resting"

    async def test_a_server_that_drains(self, engine: ReplicaSet, servers: list[FakeEngine]):
        salt = salt_of(engine, 3)
        servers[2].reply("a", "b", "c", pace=0.1)
        running = asyncio.create_task(ask(engine, salt))
        await servers[2].arrived(1)
        servers[2].healthy = False
        await engine.check()
        assert await ask(engine, salt) == "You said: hello there"
        assert len(servers[2].requests) == 1, "nothing new"
        assert await running == "abc", "what it had begun is written to its end"

    async def test_a_server_that_says_503(self, engine: ReplicaSet, servers: list[FakeEngine]):
        salt = salt_of(engine, 1)
        servers[0].fail(503, "the engine is stopping", code="engine_stopping")
        assert await ask(engine, salt) == "You said: hello there"
        assert states(engine)[0] == "away"

    @pytest.mark.parametrize(
        "answer",
        [
            b"\x00\xff garbage \xfe",
            b"<html>hello</html>",
            b"data: {]\n\n",
            b"data: [DONE]\n\n",
            b"",
            refusing(200, {"surprise": True}),
            refusing(429, {"error": {"message": "slow down"}}),
        ],
        ids=["bytes", "web page", "no json", "nothing but an end", "empty", "other json", "429"],
    )
    async def test_a_server_that_answers_nonsense(self, answer, servers: list[FakeEngine]):
        async with WireServer(answer) as wire, replica_set(wire.url, servers[1].url) as engine:
            salt = salt_of(engine, 1)
            for _ in range(3):
                assert await ask(engine, salt) == "You said: hello there"
            assert 1 <= len(wire.bodies) <= 2

    async def test_a_silent_server(self, servers: list[FakeEngine]):
        async def silent(sent, request):
            await asyncio.sleep(30)

        async with WireServer(silent) as wire, replica_set(wire.url, servers[1].url, patience=0.2) as engine:
            salt = salt_of(engine, 1)
            for _ in range(3):
                assert await ask(engine, salt) == "You said: hello there"
            assert len(wire.bodies) == 2
            assert states(engine)[0] == "resting"

    async def test_a_slow_server_with_signs_of_life_is_waited_for(self, servers: list[FakeEngine]):
        waits = endless(b": wait\n\n", 0.05)
        async with WireServer(waits) as wire, replica_set(wire.url, servers[1].url, patience=0.3) as engine:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ask(engine, salt_of(engine, 1)), 1.2)
            assert servers[1].requests == []

    async def test_a_silent_server_is_waited_for_while_no_other_is_free(self, servers: list[FakeEngine]):
        servers[0].hang()
        servers[0].default = lambda request: Script(deltas=("late",))
        async with replica_set(servers[0].url, servers[1].url, patience=0.1) as engine:
            salt = salt_of(engine, 1)
            await servers[1].stop()
            for _ in range(2):
                await engine.check()
            asking = asyncio.create_task(ask(engine, salt))
            await asyncio.sleep(0.5)
            servers[0].release()
            await asking
            assert len(servers[0].requests) == 1


class TestAfterTheFirstToken:
    """Nothing is written twice."""

    @pytest.mark.parametrize("how", ["drop", "fail_in_stream"])
    async def test_half_a_reply_is_not_begun_anew(self, engine: ReplicaSet, servers: list[FakeEngine], how: str):
        salt = salt_of(engine, 2)
        getattr(servers[1], how)("half ", "a ")
        said: list[str] = []

        async def listen() -> None:
            async for event in stream(engine, salt):
                said.append(event.text if isinstance(event, Delta) else "")

        with pytest.raises(EngineUnavailable) as raised:
            await listen()
        assert "".join(said) == "half a "
        assert numbers(servers) == [0, 1, 0]
        assert "server 2 (127.0.0.1:" in raised.value.reason

    async def test_a_server_that_always_breaks_off_is_left_alone(self, engine: ReplicaSet, servers: list[FakeEngine]):
        salt = salt_of(engine, 2)
        servers[1].default = lambda request: Script(deltas=("half",), drop=True)
        for _ in range(2):
            with pytest.raises(EngineUnavailable):
                await ask(engine, salt)
        assert await ask(engine, salt) == "You said: hello there"
        assert states(engine)[1] == "resting"

    async def test_a_member_who_stops_a_reply_says_nothing_of_the_server(
        self, engine: ReplicaSet, servers: list[FakeEngine]
    ):
        salt = salt_of(engine, 2)
        for index in range(3):
            servers[1].hang("a")
            async with aclosing(stream(engine, salt)) as events:
                await anext(events)
            await servers[1].cancelled(index)
        assert states(engine) == ["well"] * 3
        assert [report.num_in_flight for report in engine.reports()] == [0, 0, 0]


class TestComingBack:
    async def test_its_tenants_return_one_request_first(
        self, servers: list[FakeEngine], monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("bot.engine_client.replicas.replica.AWAY_SECONDS", 0.05)
        async with replica_set(*(server.url for server in servers), watched=True) as engine:
            salt = salt_of(engine, 1)
            await servers[0].stop()
            await ask(engine, salt)
            assert states(engine)[0] == "away"
            await servers[0].start()
            await eventually(lambda: states(engine)[0] == "trial")
            servers[0].hang()
            trial = asyncio.create_task(ask(engine, salt))
            await servers[0].arrived(1)
            await asyncio.gather(*(ask(engine, salt) for _ in range(4)))
            assert len(servers[0].requests) == 1, "the others do not bet on it"
            servers[0].release()
            await trial
            await ask(engine, salt)
            assert len(servers[0].requests) == 2
            assert states(engine) == ["well"] * 3

    async def test_what_it_missed_is_erased_before_it_serves_again(
        self, engine: ReplicaSet, servers: list[FakeEngine]
    ) -> None:
        await servers[1].stop()
        assert not await engine.erase_cache("salt-of-guild")
        assert servers[0].erased == servers[2].erased == ["salt-of-guild"]
        await ask(engine, salt_of(engine, 2))
        await servers[1].start()
        await engine.check()
        assert servers[1].erased == ["salt-of-guild"]
        assert states(engine)[1] == "trial"
        await engine.check()
        assert servers[1].erased == ["salt-of-guild"], "once"


class TestErasing:
    async def test_all_of_ours_erase_and_others_are_asked_once(self, engine: ReplicaSet, servers: list[FakeEngine]):
        servers[1].erases = False
        assert await engine.erase_cache("a")
        assert await engine.erase_cache("b")
        assert servers[0].erased == servers[2].erased == ["a", "b"]
        assert servers[1].calls.count("/cache/erase") == 1

    async def test_where_none_can_nothing_is_erased(self, engine: ReplicaSet, servers: list[FakeEngine]):
        for server in servers:
            server.erases = False
        assert not await engine.erase_cache("a")


class TestRefusals:
    """What is the prompt's fault is so everywhere; what is all servers' fault is said once."""

    async def test_a_prompt_that_is_too_long_is_not_sent_around(self, engine: ReplicaSet, servers: list[FakeEngine]):
        for server in servers:
            server.context = 20
        with pytest.raises(ContextExceeded):
            await ask(engine, "a", "word " * 100)
        assert sum(server.calls.count("/v1/chat/completions") for server in servers) == 1
        assert states(engine) == ["well"] * 3

    async def test_a_refused_prompt_is_not_sent_around(self, engine: ReplicaSet, servers: list[FakeEngine]):
        for server in servers:
            server.default = lambda request: Script(status=400, error={"message": "I do not like it"})
        with pytest.raises(PromptRefused):
            await ask(engine, "a")
        assert sum(numbers(servers)) == 1

    async def test_a_prompt_that_breaks_servers_breaks_two_of_them(self, engine: ReplicaSet, servers: list[FakeEngine]):
        for server in servers:
            server.default = lambda request: Script(deltas=(), drop=True)
        with pytest.raises(EngineUnavailable):
            await ask(engine, "a")
        assert sum(numbers(servers)) == 2

    async def test_all_are_gone(self, engine: ReplicaSet, servers: list[FakeEngine]):
        for server in servers:
            await server.stop()
        for _ in range(2):
            with pytest.raises(EngineUnavailable) as raised:
                await ask(engine, "a")
            assert not isinstance(raised.value, EngineRefused)
        assert not await engine.ready()
        await servers[2].start()
        assert await ask(engine, "a") == "You said: hello there", "it is asked although no health check said so yet"

    async def test_all_are_busy(self, engine: ReplicaSet, servers: list[FakeEngine]):
        for number, server in enumerate(servers, start=3):
            server.fail(429, "slow down", Retry_After=str(number))
        with pytest.raises(Busy) as raised:
            await ask(engine, "a")
        assert raised.value.retry_after == 3
        assert numbers(servers) == [1, 1, 1]


class TestRoom:
    async def test_a_full_server_sends_its_tenants_to_the_next(self, engine: ReplicaSet, servers: list[FakeEngine]):
        salt = salt_of(engine, 1)
        servers[0].hang("a")
        held = asyncio.create_task(ask(engine, salt))
        await servers[0].arrived(1)
        servers[0].fail(429, Retry_After="1")
        assert await ask(engine, salt) == "You said: hello there"
        assert await ask(engine, salt) == "You said: hello there"
        assert len(servers[0].requests) == 2, "the second one did not even ask"
        assert engine.reports()[0].limit == 1
        servers[0].release()
        await held

    async def test_what_a_server_says_of_its_load_counts(self, engine: ReplicaSet, servers: list[FakeEngine]):
        salt = salt_of(engine, 1)
        servers[0].metrics = 'vllm:num_requests_running{m="x"} 8.0\nvllm:num_requests_waiting{m="x"} 3.0\n'
        await engine.check()
        await ask(engine, salt)
        assert numbers(servers)[0] == 0
        servers[0].metrics = 'vllm:num_requests_running{m="x"} 2.0\nvllm:num_requests_waiting{m="x"} 0.0\n'
        await engine.check()
        await ask(engine, salt)
        assert numbers(servers)[0] == 1


async def test_what_all_of_them_are(engine: ReplicaSet, servers: list[FakeEngine]) -> None:
    servers[1].max_model_len = servers[1].context = 2048
    for server in servers[:2]:
        server.owner = "guildllama"
    assert engine.context_length is None
    assert not engine.shares_time
    await engine.check()
    assert engine.context_length == 2048
    assert not engine.shares_time, "one of them serves in order of arrival"
    assert [report.model for report in engine.reports()] == ["fake-model"] * 3
    assert await engine.model() == "fake-model"
    assert not await engine.is_busy()
    salt = salt_of(engine, 2)
    servers[1].metrics = "guildllama_engine_running 1.0\nguildllama_engine_waiting 0.0\n"
    assert await engine.is_busy(salt)
    assert await engine.is_busy()
    assert not await engine.is_busy(salt_of(engine, 3))
