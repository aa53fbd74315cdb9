"""Chats with servers that refuse, flood or babble: what the member reads, and what is stored."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
from aiohttp import web

from bot.chat.requests import ChatRequest
from bot.chat.service import ChatService
from bot.engine_client.client import EngineClient
from bot.errors import EngineRefused, EngineTimeout, EngineUnavailable, EngineUnreadable, PromptTooLong
from bot.settings import Settings
from models.database import Database
from models.types import DialogKey
from tests.bot.chat.chat_kit import ANN, ignore, say
from tests.bot.stored_turns import statuses, turns
from tests.fakes.engine.wire import Answer, WireServer, chunk, endless, events, refusing
from tests.selection import diagonal

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what does not depend on the database."""


@asynccontextmanager
async def chatting(
    database: Database, answer: Answer | bytes, **values: Any
) -> AsyncIterator[tuple[ChatService, WireServer]]:
    """A chat service with this server."""
    async with WireServer(answer) as server, EngineClient(server.url) as client:
        settings = Settings(_env_file=None, persona="You are a test.", **values)
        chat = ChatService(database=database, engine=client, settings=settings)
        yield chat, server
        await chat.close(0)


def pairs(sent: dict[str, Any]) -> int:
    return (len(sent["messages"]) - 2) // 2


@ON_SQLITE
class TestFewerPairs:
    @pytest.mark.parametrize("status", [400, 413, 422])
    @pytest.mark.parametrize("body", ["Request body too big for us", {"error": "kann ich nicht"}, "", "<h1>413</h1>"])
    async def test_case_08_an_unknown_wording_is_met_with_fewer_pairs(
        self, database: Database, status: int, body: object
    ):
        async with chatting(database, refusing(status, body, lambda sent: pairs(sent) > 2)) as (chat, server):
            for number in range(3):
                await say(chat, f"{number}")
            server.bodies.clear()
            reply = await say(chat, "and now?")
            assert (reply.text, reply.pairs_in_prompt) == ("ok", 1)
            assert [pairs(sent) for sent in server.bodies] == [3, 1]
            assert server.bodies[-1]["messages"][1]["content"] == "2"
            assert len(await chat.turns.history(ANN, 10)) == 4

    async def test_case_08_a_refusal_that_stays_is_one_after_a_few_times(self, database: Database):
        async with chatting(database, refusing(400, "", lambda sent: False)) as (chat, server):
            for number in range(20):
                await say(chat, f"{number}")
            server.answer, server.bodies = refusing(400, {"error": "I dislike this topic"}), []
            with structlog.testing.capture_logs() as logged, pytest.raises(EngineRefused):
                await say(chat, "what about my hamster Zebedee?")
            assert [pairs(sent) for sent in server.bodies] == [10, 5, 2, 0]
            assert any("I dislike this topic" in str(entry) for entry in logged)
            assert "Zebedee" not in str(logged)
        assert (await statuses(database))[-1] == "failed"

    async def test_case_08_no_numbers_and_many_pairs_take_few_requests(self, database: Database):
        answer = refusing(500, {"error": "the input length exceeds the context length"}, lambda sent: pairs(sent) > 3)
        async with chatting(database, answer, max_chat_logs=100) as (chat, server):
            for number in range(40):
                server.bodies.clear()
                assert (await say(chat, f"{number}")).text == "ok"
                assert len(server.bodies) <= 7
            server.answer = refusing(500, {"error": "the input length exceeds the context length"})
            with pytest.raises(PromptTooLong):
                await say(chat, "far too long")

    async def test_case_08_other_refusals_are_not_tried_again(self, database: Database):
        async with chatting(database, refusing(401, "", lambda sent: bool(pairs(sent)))) as (chat, server):
            await say(chat, "hello")
            with pytest.raises(EngineRefused):
                await say(chat, "again")
            assert len(server.bodies) == 2


class TestValues:
    @pytest.mark.parametrize(
        ("reason", "value"),
        diagonal(["stop\x00", "y" * 900_000, 5, {"a": 1}, "sto\ud83dp"], [-5, 2**31, 10**30, "many", [1], True, 1e300]),
    )
    async def test_attack_hostile_usage_and_reasons_are_stored_as_nothing_of_the_kind(
        self, database: Database, value: object, reason: object
    ):
        usage = {"prompt_tokens": value, "completion_tokens": value}
        answer = events(chunk({"content": "He\x00llo"}), chunk({}, reason, usage=usage))
        async with chatting(database, answer) as (chat, _):
            reply = await say(chat, "hi")
            assert (reply.text, reply.saved, reply.completion_tokens) == ("Hello", True, 1)
        [turn] = await turns(database)
        assert (turn.status, turn.reply, turn.finish_reason) == ("done", "Hello", "other")

    @pytest.mark.parametrize(
        "nonsense",
        [{"choices": 5}, chunk([]), chunk({"content": 7}), "data: " + "[" * 90_000 + "\n\n", "data: hello\n\n"],
    )
    async def test_attack_the_text_before_nonsense_is_kept(self, database: Database, nonsense: object):
        async with chatting(database, events(chunk({"content": "Hello"}), nonsense)) as (chat, server):
            with structlog.testing.capture_logs() as logged:
                reply = await say(chat, "hi")
            assert (reply.text, reply.finish_reason, reply.saved) == ("Hello", "other", True)
            assert any(entry["log_level"] == "warning" for entry in logged)
            server.answer = events(nonsense)
            with pytest.raises(EngineUnreadable):
                await say(chat, "hi")
        assert await statuses(database) == ["done", "failed"]


@ON_SQLITE
class TestBounds:
    @pytest.mark.parametrize(("size", "pause"), [(10, 0), (30, 0), (5000, 0), (5000, 0.001), (500_000, 0)])
    async def test_attack_a_reply_without_end_ends_at_the_bots_own_limits(
        self, database: Database, size: int, pause: float
    ):
        left = asyncio.Event()

        async def answer(sent: dict[str, Any], request: web.Request) -> web.StreamResponse:
            try:
                return await endless(events(chunk({"content": "-" * size}), done=False), pause)(sent, request)
            finally:
                left.set()

        shown: list[str] = []

        async def show(piece: str) -> None:
            shown.append(piece)

        async with chatting(database, answer, max_reply_tokens=50) as (chat, _):
            reply = await asyncio.wait_for(chat.chat(ChatRequest(ANN, "talk"), show), 30)
            await asyncio.wait_for(left.wait(), 5)
        assert reply.finish_reason == "length"
        assert "".join(shown) == reply.text
        assert len(shown) <= 4096
        # What came together is counted together.
        assert min(4096 * size, 65_536) <= len(reply.text) <= min((4096 + 64) * size, 65_536)
        assert await statuses(database) == ["done"]

    async def test_attack_others_are_served_meanwhile(self, database: Database):
        flood = b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n' * 1000
        async with chatting(database, endless(flood), reply_timeout=30) as (chat, server):
            flooded = asyncio.create_task(chat.chat(ChatRequest(ANN, "talk"), ignore))
            async with asyncio.timeout(10):
                while not server.bodies:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            loop, longest = asyncio.get_running_loop(), 0.0
            until = loop.time() + 2
            while loop.time() < until:
                before = loop.time()
                await asyncio.sleep(0.01)
                longest = max(longest, loop.time() - before)
            assert not flooded.done()
            await chat.stop(ANN)
            with contextlib.suppress(EngineUnavailable):
                await asyncio.wait_for(flooded, 5)
        assert longest < 0.5
        assert "pending" not in await statuses(database)


SIGNS: list[object] = [
    chunk({"reasoning_content": "hmm"}),
    chunk({"reasoning": "hmm", "content": None}),
    chunk({"content": [{"type": "thinking", "thinking": "hmm"}]}),
    chunk({"role": "assistant"}),
    {"choices": []},
    ": OPENROUTER PROCESSING\n\n",
    "event: ping\n\n",
]


@ON_SQLITE
class TestSignsOfLife:
    async def test_attack_a_model_that_thinks_longer_than_the_timeout(self, database: Database):
        thoughts = (self.thinks_long(database, sign, DialogKey(1, user)) for user, sign in enumerate(SIGNS, 1))
        assert await asyncio.gather(*thoughts) == ["42"] * len(SIGNS)

    async def thinks_long(self, database: Database, sign: object, key: DialogKey) -> str:
        async def answer(sent: dict[str, Any], request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for _ in range(12):
                await response.write(events(sign, done=False))
                await asyncio.sleep(0.2)
            await response.write(events(chunk({"content": "42"}, "stop")))
            return response

        async with chatting(database, answer, reply_timeout=2) as (chat, server):
            text = (await say(chat, "hard question", key)).text
            server.answer = endless(events(sign, done=False), 5)
            with pytest.raises(EngineTimeout):
                await asyncio.wait_for(say(chat, "harder", key), 30)
        return text

    async def test_attack_signs_of_life_do_not_go_on_for_ever(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("bot.chat.reply.reply_control._LONGEST_SILENCE", 1.0)
        async with chatting(database, endless(b": still here\n\n", 0.1), reply_timeout=0.5) as (chat, _):
            with pytest.raises(EngineTimeout):
                await asyncio.wait_for(say(chat, "anyone?"), 5)
        assert await statuses(database) == ["failed"]
