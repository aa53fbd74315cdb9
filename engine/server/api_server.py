"""The life of rank 0: listen, load the model, serve, shut down on a signal or when the engine fails.

Owns the event loop, the signal handlers and the exit code. /health answers from the first moment; the model is loaded
on another thread meanwhile. uvicorn provides HTTP, without its signal handling and its logging.
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

from engine.core.garbage import freeze_gc
from engine.core.stats import EngineStats
from engine.errors import ConfigError
from engine.load_progress import LoadProgress
from engine.server.app import build_app
from engine.server.args import EXIT_CONFIG, ServeOptions
from engine.server.loaded_model import LoadedModel
from engine.server.metrics import Metrics
from engine.server.network.connections import http_config
from engine.server.network.sockets import open_listener
from engine.server.serving import ServingService
from engine.server.traces import open_traces

# In seconds.
SHUTDOWN_GRACE = 3.0  # given to running responses after SIGTERM
CLOSE_TIMEOUT = 1.0  # for the last bytes to the clients, and again for the engine to stop the other ranks
FLUSH_TIMEOUT = 2.5  # for what is left of the KV cache to be written to its files
POLL_INTERVAL = 0.2  # between checks of the engine
STALL_TIMEOUT = 180.0  # with requests but without a step, after which the engine counts as failed
LOADING_LOG_INTERVAL = 5.0

T = TypeVar("T")


def log(line: str) -> None:
    """Write one line to stderr, for the process that started this one."""
    sys.stderr.write(f"engine: {line}\n")
    sys.stderr.flush()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # ApiServer handles the signals


class ApiServer:
    """One run of the HTTP server over the engine that `load` returns."""

    def __init__(self, options: ServeOptions, load: Callable[[LoadProgress], LoadedModel]) -> None:
        """`load` runs on a thread of its own, and says there how far it is; it may raise ConfigError."""
        self._options = options
        self._load, self._progress = load, LoadProgress()
        self._loaded: LoadedModel | None = None

    async def run(self) -> int:
        """Serve until a signal or a failure. Returns the exit code; raises ConfigError if it cannot listen."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        options = self._options
        with open_listener(options.host, options.port, options.uds, local_only=options.local_only) as listener:
            metrics = Metrics(self._stats)
            traces = None if options.traces_url is None else open_traces(options.traces_url)
            service = ServingService(
                options.name,
                metrics,
                max_reply_tokens=options.max_reply_tokens,
                repetition_guard=options.repetition_guard,
                progress=self._progress,
                traces=traces,
            )
            app = build_app(
                service,
                metrics,
                access=self._options.access,
                api_key=self._options.api_key,
                max_body=self._options.max_body,
                stream_interval=self._options.stream_interval,
                traced=traces is not None,
            )
            server = _Server(http_config(app, graceful_shutdown=int(SHUTDOWN_GRACE + CLOSE_TIMEOUT)))
            serving = asyncio.create_task(server.serve([listener.socket]))
            sys.stdout.write(f"engine: listening on {listener.address}\n")
            sys.stdout.flush()
            code = await self._load_and_watch(service, stop, serving)
            server.should_exit = True
            await service.stop(SHUTDOWN_GRACE if code == 0 else 0.0)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(serving), CLOSE_TIMEOUT)
            sending = None if traces is None else _run_in_thread(traces.close)  # while the engine closes
            await self._close_engine()
            if sending is not None:
                await asyncio.wait({sending}, timeout=CLOSE_TIMEOUT / 2)
        return code

    async def _load_and_watch(self, service: ServingService, stop: asyncio.Event, serving: "asyncio.Task[None]") -> int:
        """Load the model, then watch the engine until it fails or a signal comes. Returns the exit code."""
        stopping = asyncio.create_task(stop.wait())
        loading = asyncio.create_task(self._load_model())
        await asyncio.wait({stopping, loading, serving}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done() or serving.done():
            loading.cancel()
            return 0 if stopping.done() else 1
        try:
            loaded = self._loaded = loading.result()
        except ConfigError as error:
            service.set_failed(str(error))
            log(str(error))
            return EXIT_CONFIG
        except Exception:
            service.set_failed("The model could not be loaded.")
            traceback.print_exc()
            return 1
        service.set_ready(loaded)
        stall_detector = StallDetector(time.monotonic())
        while not stop.is_set():
            failure = loaded.engine.failure or stall_detector.check(loaded.engine.stats(), time.monotonic())
            if failure is not None:
                service.set_failed(failure)
                log(f"failed: {failure}")
                return 1
            if serving.done():
                return 1
            await asyncio.wait({stopping}, timeout=POLL_INTERVAL)
        return 0

    async def _load_model(self) -> LoadedModel:
        started = time.monotonic()
        loading = _run_in_thread(lambda: self._load(self._progress))
        while not loading.done():
            await asyncio.wait({loading}, timeout=LOADING_LOG_INTERVAL)
            if not loading.done():
                stage = self._progress.state
                doing = "" if stage is None else f": {stage}"
                log(f"still loading {self._options.model} ({time.monotonic() - started:.0f} s){doing}")
        loaded = loading.result()
        freeze_gc(defer_full=True)
        log(f"{self._options.name} is ready after {time.monotonic() - started:.1f} s")
        return loaded

    async def _close_engine(self) -> None:
        """Stop the engine and the other ranks; an engine that does not react is left to the end of the process."""
        if self._loaded is not None:
            timeout = CLOSE_TIMEOUT + (0 if self._options.kv_dir is None else FLUSH_TIMEOUT)
            await asyncio.wait({_run_in_thread(self._loaded.engine.close)}, timeout=timeout)

    def _stats(self) -> EngineStats | None:
        return self._loaded.engine.stats() if self._loaded is not None else None


class StallDetector:
    """Notices an engine that has requests and makes no step. The engine's own watchdog catches shorter hangs."""

    def __init__(self, now: float) -> None:
        """`now`: time.monotonic()."""
        self._steps = -1
        self._last_progress = now

    def check(self, stats: EngineStats, now: float) -> str | None:
        """The failure, or None."""
        if stats.steps != self._steps or not stats.running + stats.waiting:
            self._steps, self._last_progress = stats.steps, now
        return f"no step for {STALL_TIMEOUT:.0f} s" if now - self._last_progress > STALL_TIMEOUT else None


def _run_in_thread(work: Callable[[], T]) -> "asyncio.Future[T]":
    """The result of `work`, done on a daemon thread: unlike asyncio.to_thread's, it does not delay the exit."""
    result: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return asyncio.wrap_future(result)
