"""Several fake servers as one engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from bot.engine_client.client import EngineClient
from bot.engine_client.messages import Delta, Finished, Message
from bot.engine_client.replicas.replica import Replica
from bot.engine_client.replicas.replica_set import ReplicaSet

HELLO = [Message(role="user", content="hello there")]


@asynccontextmanager
async def replica_set(*urls: str, patience: float = 30.0, watched: bool = False) -> AsyncIterator[ReplicaSet]:
    """These servers as one engine. Unless it is `watched`, only `check()` checks their health."""
    replicas = [Replica(number, url, EngineClient(url, name=str(number))) for number, url in enumerate(urls, start=1)]
    engine = ReplicaSet(replicas, patience=patience)
    if watched:
        async with engine:
            yield engine
        return
    try:
        yield engine
    finally:
        await engine.close()


async def ask(engine: ReplicaSet, salt: str, text: str = "hello there") -> str:
    """The reply to one message of this tenant."""
    said, end = "", None
    async for event in stream(engine, salt, text):
        if isinstance(event, Delta):
            said += event.text
        elif isinstance(event, Finished):
            end = event
    assert end is not None
    return said


def stream(engine: ReplicaSet, salt: str, text: str = "hello there"):
    messages = [Message(role="user", content=text)]
    return engine.stream(messages, temperature=0.6, top_p=0.9, max_tokens=50, user="u", cache_salt=salt)


def salt_of(engine: ReplicaSet, number: int) -> str:
    """A tenant whose own server has this number."""
    return next(salt for salt in map(str, range(1000)) if engine.lane(salt) == number)


def states(engine: ReplicaSet) -> list[str]:
    return [report.state for report in engine.reports()]


async def eventually(seen, seconds: float = 8.0) -> None:
    """Wait until `seen()` is true."""
    for _ in range(round(seconds / 0.02)):
        if seen():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come about in time")


def numbers(servers: Sequence) -> list[int]:
    """How many chat completions each fake server got."""
    return [len(server.requests) for server in servers]
