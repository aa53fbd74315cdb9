"""Connections that were idle for too long are all closed when a reply ends."""

from __future__ import annotations

import asyncio
import gc
import warnings

import pytest

from bot.engine_client.client import EngineClient
from bot.engine_client.http import transport
from bot.engine_client.stream import event_stream
from tests.bot.engine_client.wire_kit import ask
from tests.fakes.engine import FakeEngine, Script

NUM_IDLE = 20


async def test_a_reply_that_ends_closes_them_all(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch):
    # The end of an answer is waited for a moment; closing twenty connections takes longer than this one.
    monkeypatch.setattr(event_stream, "_DRAIN_SECONDS", 0.0003)
    monkeypatch.setattr(transport, "IDLE_SECONDS", 0.2)
    gc.collect()
    async with EngineClient(engine.url) as client:
        engine.default = lambda request: Script(deltas=("a",), hang=True)
        asking = asyncio.gather(*(ask(client) for _ in range(NUM_IDLE)))
        await engine.arrived(NUM_IDLE)
        engine.release()
        await asking
        engine.default = lambda request: Script(deltas=("a",) * 10, pace=0.05)
        await ask(client)
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        unclosed: list[object] = []
        patch.setattr("sys.unraisablehook", lambda leak: unclosed.append(leak.object))
        warnings.simplefilter("error", ResourceWarning)
        gc.collect()
    assert unclosed == []
