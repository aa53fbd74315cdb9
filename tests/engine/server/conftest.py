"""Fixtures: a server on a real socket, in the test's own event loop, over a scripted engine."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import cast

import httpx
import openai
import pytest
import uvicorn

from engine.core.engine_core import EngineCore
from engine.load_progress import LoadProgress
from engine.server.app import build_app
from engine.server.loaded_model import LoadedModel
from engine.server.metrics import Metrics
from engine.server.network.access import AccessPolicy
from engine.server.network.connections import http_config
from engine.server.network.sockets import open_listener
from engine.server.serving import ServingService
from engine.server.traces import RequestTraces
from engine.tokenizers.piecewise import PiecewiseEncoder
from tests.engine.server.scripted_engine import MAX_CONTEXT, ByteTokenizer, PlainFormat, ScriptedEngine

API_KEY = "key-of-the-test"
MAX_BODY = 100_000


class _QuietServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


@dataclass(slots=True)
class Served:
    """A running server, its engine, and clients for it."""

    engine: ScriptedEngine
    service: ServingService
    client: openai.AsyncOpenAI
    http: httpx.AsyncClient
    port: int

    def load(self) -> None:
        tokenizer = ByteTokenizer()
        loaded = LoadedModel(
            cast("EngineCore", self.engine), tokenizer, PiecewiseEncoder(tokenizer), PlainFormat(), MAX_CONTEXT
        )
        self.service.set_ready(loaded)


@contextlib.asynccontextmanager
async def serve(
    api_key: str | None = None,
    stream_interval: float = 0.0,
    access: AccessPolicy | None = None,
    max_body: int = MAX_BODY,
    traces: RequestTraces | None = None,
) -> AsyncIterator[Served]:
    engine, metrics = ScriptedEngine(), Metrics(lambda: None)
    service = ServingService("tiny", metrics, progress=LoadProgress(), traces=traces)
    app = build_app(
        service,
        metrics,
        access=access or AccessPolicy(),
        api_key=api_key,
        max_body=max_body,
        stream_interval=stream_interval,
        traced=traces is not None,
    )
    server = _QuietServer(http_config(app, graceful_shutdown=1))
    with open_listener("127.0.0.1", 0, None) as listener:
        base = listener.address
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)  # so that a slow reader blocks it early
        serving = asyncio.create_task(server.serve([listener.socket]))
        async with (
            openai.AsyncOpenAI(base_url=f"{base}/v1", api_key=API_KEY, max_retries=0, timeout=10) as client,
            httpx.AsyncClient(base_url=base, timeout=10) as http,
        ):
            yield Served(engine, service, client, http, listener.socket.getsockname()[1])
        server.should_exit = True
        await serving


@pytest.fixture
async def loading() -> AsyncIterator[Served]:
    """A server whose model is not loaded yet."""
    async with serve() as served:
        yield served


@pytest.fixture
async def served(loading: Served) -> Served:
    loading.load()
    return loading


@pytest.fixture
async def roomy() -> AsyncIterator[Served]:
    """A server that takes large bodies."""
    async with serve(max_body=8 << 20) as served:
        served.load()
        yield served


@pytest.fixture
async def with_key() -> AsyncIterator[Served]:
    """A server that requires API_KEY."""
    async with serve(API_KEY) as served:
        served.load()
        yield served
