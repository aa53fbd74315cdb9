"""The life of rank 0: listen first, load beside it, serve, and leave in order when told to or when the engine fails.

Owns the event loop, the signals and the exit code. The server answers /health from the first moment; the model is
loaded in a thread meanwhile. uvicorn brings HTTP, but neither its signal handling nor its logging.
"""

import asyncio
import concurrent.futures
import contextlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import TypeVar

import uvicorn

from engine.core.stats import EngineStats
from engine.errors import ConfigError
from engine.server.app import build_app
from engine.server.args import BAD_CONFIG, ServeOptions
from engine.server.metrics import Metrics
from engine.server.serving import LoadedModel, ServingService
from engine.server.sockets import listener

GRACE = 3.0  # seconds that running replies get after SIGTERM
LEAVE = 1.0  # seconds for the last bytes, and again for the other ranks
WATCH = 0.2  # seconds between looks at the engine
STALL_TIMEOUT = 180.0  # seconds without a step, while there are requests, after which the engine is taken for dead
PROGRESS = 5.0  # seconds between signs of life while loading
IDLE_CONNECTION = 75  # seconds that a client may keep an idle connection for its next request


T = TypeVar("T")


def say(line: str) -> None:
    """One line for whoever started this process."""
    sys.stderr.write(f"engine: {line}\n")
    sys.stderr.flush()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are the host's business


class ApiServer:
    def __init__(self, options: ServeOptions, load: Callable[[], LoadedModel]) -> None:
        self._options = options
        self._load = load
        self._loaded: LoadedModel | None = None

    async def run(self) -> int:
        """Serve until told to stop; the exit code."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        with listener(self._options.host, self._options.port, self._options.uds) as opened:
            metrics = Metrics(self._stats)
            service = ServingService(self._options.name, metrics, max_reply_tokens=self._options.max_reply_tokens)
            app = build_app(
                service,
                metrics,
                api_key=self._options.api_key,
                max_body=self._options.max_body,
                stream_interval=self._options.stream_interval,
            )
            config = uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=IDLE_CONNECTION,
                timeout_graceful_shutdown=int(GRACE + LEAVE),
            )
            server = _Server(config)
            serving = asyncio.create_task(server.serve([opened.socket]))
            sys.stdout.write(f"engine: listening on {opened.place}\n")
            sys.stdout.flush()
            code = await self._until_the_end(service, stop, serving)
            server.should_exit = True
            await service.stop(GRACE if code == 0 else 0.0)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(serving), LEAVE)
            await self._close_engine()
        return code

    async def _until_the_end(self, service: ServingService, stop: asyncio.Event, serving: "asyncio.Task[None]") -> int:
        stopping = asyncio.create_task(stop.wait())
        loading = asyncio.create_task(self._loading())
        await asyncio.wait({stopping, loading, serving}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done() or serving.done():
            loading.cancel()
            return 0 if stopping.done() else 1
        try:
            loaded = self._loaded = loading.result()
        except ConfigError as error:
            service.fail(str(error))
            say(str(error))
            return BAD_CONFIG
        except Exception:
            service.fail("The model could not be loaded.")
            traceback.print_exc()
            return 1
        service.ready(loaded)
        progress = Progress(time.monotonic())
        while not stop.is_set():
            failure = loaded.engine.failure or progress.stall(loaded.engine.stats(), time.monotonic())
            if failure is not None:
                service.fail(failure)
                say(f"failed: {failure}")
                return 1
            if serving.done():
                return 1
            await asyncio.wait({stopping}, timeout=WATCH)
        return 0

    async def _loading(self) -> LoadedModel:
        started = time.monotonic()
        loading = _in_thread(self._load)
        while not loading.done():
            await asyncio.wait({loading}, timeout=PROGRESS)
            if not loading.done():
                say(f"still loading {self._options.model} ({time.monotonic() - started:.0f} s)")
        loaded = loading.result()
        from engine.core.worker import freeze_gc  # needs torch, and the socket should not wait for that

        freeze_gc()
        say(f"{self._options.name} is ready after {time.monotonic() - started:.1f} s")
        return loaded

    async def _close_engine(self) -> None:
        """Sends the other ranks away; an engine that does not even do that is left behind."""
        if self._loaded is not None:
            await asyncio.wait({_in_thread(self._loaded.engine.close)}, timeout=LEAVE)

    def _stats(self) -> EngineStats | None:
        return self._loaded.engine.stats() if self._loaded is not None else None


class Progress:
    """Notices an engine that has something to do and does nothing; the engine itself watches for shorter hangs."""

    def __init__(self, now: float) -> None:
        self._steps = -1
        self._since = now

    def stall(self, stats: EngineStats, now: float) -> str | None:
        if stats.steps != self._steps or not stats.running + stats.waiting:
            self._steps, self._since = stats.steps, now
        return f"no step for {STALL_TIMEOUT:.0f} s" if now - self._since > STALL_TIMEOUT else None


def _in_thread(work: Callable[[], T]) -> "asyncio.Future[T]":
    """The result of `work`, done in a thread that nobody has to wait for when the process leaves early."""
    result: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return asyncio.wrap_future(result)
