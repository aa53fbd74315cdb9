"""What the bot's client relies on, against real servers: ours, llama.cpp's, `transformers serve`, and vLLM.

Long tests: each server is started once. One that is not installed is skipped, with what installs it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import openai
import pytest

from bot.chat.service import ChatService
from bot.engine_client.client import EngineClient
from bot.engine_client.errors import ContextExceeded
from bot.engine_client.messages import Delta, Finished, Message, ReplyEvent
from bot.engine_client.replicas.reported_load import LoadReader
from bot.errors import BotError, EngineRefused, EngineUnavailable
from bot.settings import Settings
from models.database import Database
from tests.bot.chat.chat_kit import ANN, BOB, say
from tests.bot.engine_client.contract.real_servers import CONTEXT, RealServer, huggingface_folder, missing, started
from tests.selection import SQLITE

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

KINDS = ("guildllama", "llama.cpp", "transformers", "vllm")
CAPITAL = [Message(role="user", content="What is the capital of France?")]
STORY = [Message(role="user", content="Tell me a very long story about a dragon and a knight.")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return huggingface_folder(tmp_path_factory.mktemp("models") / "smollm2")


@pytest.fixture(scope="module", params=KINDS)
def server(
    request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealServer]:
    if why := missing(request.param):
        pytest.skip(why)
    with started(request.param, tmp_path_factory.mktemp("server"), folder) as running:
        yield running
        assert running.process.poll() is None, running.log.read_text(errors="replace")[-3000:]


@pytest.fixture
async def client(server: RealServer) -> AsyncIterator[EngineClient]:
    async with EngineClient(server.url, server.key, model=server.model) as opened:
        yield opened


async def ask(
    client: EngineClient, messages: list[Message], max_tokens: int = 24, **fields: object
) -> list[ReplyEvent]:
    given = {"temperature": 0.0, "top_p": 1.0, "user": "someone", "cache_salt": "a-salt", **fields}
    return [event async for event in client.stream(messages, max_tokens=max_tokens, **given)]  # type: ignore[arg-type]


def text_of(events: list[ReplyEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def end_of(events: list[ReplyEvent]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


async def test_health_and_model(server: RealServer, client: EngineClient) -> None:
    assert await client.health() == "ready"
    assert text_of(await ask(client, CAPITAL, 4))
    assert await client.model() == server.model
    assert client.context_length == (CONTEXT if server.states_context else None)
    assert set(server.statuses) <= {"ConnectError", "ReadTimeout", "503", "200"}


async def test_a_reply_in_pieces_with_its_usage(client: EngineClient) -> None:
    events = await ask(client, CAPITAL, 48)
    assert text_of(events).strip()
    assert sum(isinstance(event, Delta) for event in events) > 3
    end = end_of(events)
    assert end.finish_reason in {"stop", "length"}
    assert end.prompt_tokens is not None
    assert end.completion_tokens is not None
    assert 20 < end.prompt_tokens < 60
    assert 4 < end.completion_tokens <= 48


async def test_the_longest_reply(client: EngineClient) -> None:
    end = end_of(await ask(client, STORY, 8))
    assert end.finish_reason == "length"
    assert end.completion_tokens in {7, 8}


async def test_optional_fields_are_taken_or_left_out(server: RealServer, client: EngineClient) -> None:
    """The reply comes in any case, and the second time without a refusal."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}
    for _ in range(2):
        events = await ask(client, CAPITAL, 48, frequency_penalty=0.3, response_format=wanted)
        assert text_of(events).strip()
    assert client._completions._rejected_fields == server.dropped


async def test_stop_and_seed(server: RealServer) -> None:
    """Not sent by the bot, but part of what is called OpenAI's protocol."""
    async with openai.AsyncOpenAI(base_url=server.url, api_key=server.key or "none", max_retries=0) as raw:

        async def said(**fields: object) -> str:
            stream = await raw.chat.completions.create(
                model=server.model,
                messages=CAPITAL,
                stream=True,
                max_tokens=32,
                **fields,  # type: ignore[call-overload]
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

        stopped = await said(temperature=0, stop=["Paris"])
        assert stopped.endswith("Paris") if server.kind == "transformers" else "Paris" not in stopped
        once, again = [await said(temperature=1.0, seed=7) for _ in range(2)]
        assert once == again


async def test_a_prompt_that_is_too_long(server: RealServer, client: EngineClient) -> None:
    long = [Message(role="user", content="word " * 3 * CONTEXT)]
    if not server.refuses_long_prompts:
        assert text_of(await ask(client, [Message(role="user", content="word " * CONTEXT)], 2)) is not None
        return
    with pytest.raises(ContextExceeded) as error:
        await ask(client, long, 16)
    assert error.value.context_length == CONTEXT
    # vLLM stops counting where the context ends, and says "at least".
    assert error.value.num_prompt_tokens > (CONTEXT if server.kind == "vllm" else 2 * CONTEXT)


async def test_counting(server: RealServer, client: EngineClient) -> None:
    counted = await client.count(CAPITAL)
    if not server.counts:
        assert counted is None
        return
    assert counted is not None
    assert counted.context_length == CONTEXT
    assert counted.count == end_of(await ask(client, CAPITAL, 4)).prompt_tokens


async def test_a_reply_that_nobody_reads_ends(server: RealServer, client: EngineClient) -> None:
    for _ in range(3):  # more than run at once
        events = client.stream(STORY, temperature=0.0, top_p=1.0, max_tokens=800, user="someone", cache_salt="a-salt")
        assert isinstance(await anext(events), Delta)
        await events.aclose()
    async with asyncio.timeout(60):
        assert text_of(await ask(client, CAPITAL))
    load = LoadReader(client.transport)
    if not server.states_load:
        assert await load.read() is None
        return
    async with asyncio.timeout(10):
        while (now := await load.read()) is None or now.running or now.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def test_more_requests_than_run_at_once(client: EngineClient) -> None:
    replies = await asyncio.gather(*(ask(client, CAPITAL) for _ in range(5)))
    assert all(text_of(events).strip() for events in replies)


async def test_a_reply_that_goes_on(server: RealServer, client: EngineClient) -> None:
    begun = Message(role="assistant", content="The capital of France is")
    text = text_of(await ask(client, [*CAPITAL, begun]))
    assert text
    if server.kind != "transformers":  # which begins a new message
        assert text.lstrip().startswith("Paris")


async def test_a_model_that_thinks_is_asked_to(server: RealServer) -> None:
    """The field for the template is taken, or left out, also where the template knows nothing of it."""
    async with EngineClient(server.url, server.key, model=server.model, thinking=True) as client:
        assert text_of(await ask(client, CAPITAL, 8)).strip()


async def test_it_sees_no_pictures(client: EngineClient) -> None:
    assert not await client.accepts_images()
    assert text_of(await ask(client, CAPITAL, 8)).strip()


async def test_other_endpoints_that_only_ours_has(server: RealServer, client: EngineClient) -> None:
    ours = server.kind == "guildllama"
    assert await client.erase_cache("a-salt") == ours
    assert await client.is_busy() is False
    assert len(await client.metrics_pages()) == 1


async def test_a_wrong_key(server: RealServer) -> None:
    if not server.has_key:
        pytest.skip("it has no keys")
    async with EngineClient(server.url, "wrong", model=server.model) as client:
        with pytest.raises(EngineRefused) as error:
            await client.model()
        assert "401" in error.value.reason
        assert "wrong" not in error.value.reason


async def test_a_request_that_is_wrong(client: EngineClient) -> None:
    """It is refused, which is an error of the bot's own, or answered as well as can be."""
    await client.model()
    with contextlib.suppress(BotError):
        assert isinstance((await ask(client, []))[-1], Finished)
    assert await client.health() == "ready"


async def test_a_name_that_it_does_not_know(server: RealServer) -> None:
    """A server of one model is asked for that one; one that lists none says what it wants."""
    async with EngineClient(server.url, server.key, model="another/model") as client:
        if server.kind == "transformers":
            with pytest.raises(EngineRefused):
                await ask(client, CAPITAL)
        else:
            assert text_of(await ask(client, CAPITAL, 8)).strip()
            assert client.known_model == server.model


@SQLITE
async def test_a_long_conversation_is_trimmed(server: RealServer, client: EngineClient, database: Database) -> None:
    """The whole chat: what no longer fits is left out, whether or not the server counts."""
    max_seq_len = None if server.refuses_long_prompts else CONTEXT
    settings = Settings(_env_file=None, engine_url=server.url, max_seq_len=max_seq_len, max_reply_tokens=16)
    chat = ChatService(database=database, engine=client, settings=settings)
    try:
        for number in range(6):
            reply = await say(chat, f"{number}: " + "dragon " * 250, ANN)
            assert reply.completion_tokens > 0
        if server.refuses_long_prompts:
            assert 0 < reply.pairs_in_prompt < 5
        assert (await say(chat, "What is the capital of France?", BOB)).pairs_in_prompt == 0
    finally:
        await chat.close(0)


async def test_it_stops(server: RealServer, folder: Path, tmp_path: Path) -> None:
    """In the middle of a reply; afterwards nothing can be reached."""
    with started(server.kind, tmp_path, folder, has_downloads=False) as other:
        async with EngineClient(other.url, other.key, model=other.model) as client:
            events = client.stream(STORY, temperature=0.0, top_p=1.0, max_tokens=800, user="x", cache_salt="x")
            await anext(events)
            other.process.kill()
            with pytest.raises(EngineUnavailable):
                async for _ in events:
                    pass
            other.process.wait()
            with pytest.raises(EngineUnavailable):
                await ask(client, CAPITAL)
            assert await client.health() == "unreachable"
