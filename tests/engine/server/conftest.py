"""A server on a real socket in the test's own event loop, over an engine that follows a script."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import cast

import httpx
import openai
import pytest
import torch
import uvicorn

from engine.core.engine_core import EngineCore
from engine.server.app import build_app
from engine.server.metrics import Metrics
from engine.server.serving import LoadedModel, ServingService
from engine.server.sockets import listener
from tests.engine.server.fakes import CONTEXT, ByteTokenizer, PlainFormat, ScriptedEngine
from tests.engine.server.reference_package import package

KEY = "key-of-the-test"

# The comparison with Meta's own package is there for machines that have it, with the GPU that it needs.
collect_ignore = [] if package() is not None and torch.cuda.is_available() else ["test_reference.py"]


class _QuietServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


@dataclass(slots=True)
class Served:
    engine: ScriptedEngine
    service: ServingService
    client: openai.AsyncOpenAI
    http: httpx.AsyncClient
    port: int

    def load(self) -> None:
        loaded = LoadedModel(cast("EngineCore", self.engine), ByteTokenizer(), PlainFormat(), CONTEXT)
        self.service.ready(loaded)


@contextlib.asynccontextmanager
async def serve(api_key: str | None = None, stream_interval: float = 0.0) -> AsyncIterator[Served]:
    engine, metrics = ScriptedEngine(), Metrics(lambda: None)
    service = ServingService("tiny", metrics)
    app = build_app(service, metrics, api_key=api_key, max_body=100_000, stream_interval=stream_interval)
    config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None, timeout_graceful_shutdown=1)
    server = _QuietServer(config)
    with listener("127.0.0.1", 0, None) as opened:
        base = opened.place
        opened.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)  # a slow reader is noticed early
        serving = asyncio.create_task(server.serve([opened.socket]))
        async with (
            openai.AsyncOpenAI(base_url=f"{base}/v1", api_key=KEY, max_retries=0, timeout=10) as client,
            httpx.AsyncClient(base_url=base, timeout=10) as http,
        ):
            yield Served(engine, service, client, http, opened.socket.getsockname()[1])
        server.should_exit = True
        await serving


@pytest.fixture
async def loading() -> AsyncIterator[Served]:
    """A server whose model is not there yet."""
    async with serve() as served:
        yield served


@pytest.fixture
async def served(loading: Served) -> Served:
    loading.load()
    return loading


@pytest.fixture
async def unhurried() -> AsyncIterator[Served]:
    """A server that gathers the tokens of 0.2 s into an event."""
    async with serve(stream_interval=0.2) as served:
        served.load()
        yield served


@pytest.fixture
async def locked() -> AsyncIterator[Served]:
    """A server that wants KEY."""
    async with serve(KEY) as served:
        served.load()
        yield served
