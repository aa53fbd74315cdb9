"""Starts the engine as a child process, watches its health, restarts it when it dies, and ends it with the bot.

Knows only the process: `command` builds its command line, `output` parses its output, `folder` holds its socket.
`guard` runs between the bot and the engine, and ends every process of the engine however the bot ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import structlog

from bot.engine_client.client import EngineClient
from bot.engine_process.cache_key import cache_key_environment
from bot.engine_process.command import engine_command, engine_environment
from bot.engine_process.folder import EngineFolder, remove_leftovers
from bot.engine_process.installed import check_engine_installed
from bot.engine_process.output import LINE_LIMIT, EngineOutput
from bot.errors import EXIT_CONFIG, ConfigError
from bot.settings import Settings
from bot.telemetry.metrics import ENGINE_RESTARTS

log = structlog.get_logger(__name__)

GRACE_SECONDS = 8.0  # between SIGTERM and SIGKILL; the engine needs up to 7.5 to end replies and write its cache
LOAD_SECONDS = 1800.0  # enough for a large checkpoint from a slow disk
POLL_SECONDS = 0.1  # between health checks while the model loads
HEALTH_SECONDS = 5.0  # between health checks of a ready engine
MAX_FAILED_CHECKS = 3
BACKOFF_SECONDS = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_SECONDS = 60.0  # an engine that was ready for this long, or has completed a reply, restarts without a pause


class EngineProcess:
    """The supervised engine. `client` may be used at once: it reports that the model is loading until it is ready."""

    def __init__(self, settings: Settings, *, command: Sequence[str] | None = None) -> None:
        remove_leftovers()
        self._folder = EngineFolder()
        self._uds = self._folder.path / "engine.sock"
        try:
            if command is None:
                check_engine_installed(settings)
            self._command = [*command, "--uds", str(self._uds)] if command else engine_command(settings, self._uds)
            self._secrets = cache_key_environment(settings)
        except ConfigError:
            self._folder.remove()
            raise
        self.client = EngineClient("http://engine/v1", uds=str(self._uds), state="loading", thinking=settings.thinking)
        self.client.on_timeout = self.check_now
        self.restarts = 0
        self.pid: int | None = None
        self._output = EngineOutput()
        self._ready = asyncio.Event()
        self._ready_since: float | None = None
        self._check_requested = asyncio.Event()
        self._failed: asyncio.Future[ConfigError] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def start(self) -> None:
        """Start supervising, without waiting for the model. Idempotent."""
        if self._task is None:
            self._task = asyncio.create_task(self._supervise(), name="engine supervisor")

    async def stop(self) -> None:
        """End the engine and every process that it started. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self.client.close()
        self._folder.remove()

    def check_now(self) -> None:
        """Check the engine's health at once: a reply timed out."""
        self._check_requested.set()

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and the last health check succeeded."""
        return self._ready.is_set()

    async def wait_ready(self) -> None:
        """Wait until the model answers. Raises ConfigError if its settings make that impossible."""
        ready = asyncio.create_task(self._ready.wait())
        either: list[asyncio.Future[Any]] = [ready, self._failed]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if self._failed.done():
            raise self._failed.result()

    async def failed(self) -> ConfigError:
        """Wait for a configuration error, after which the engine is not restarted. Never returns without one."""
        return await asyncio.shield(self._failed)

    async def _supervise(self) -> None:
        failures = 0  # in a row
        while True:
            replies = self.client.completed_replies
            code = await self._run_once()
            if code == EXIT_CONFIG or self._output.reports_bad_config:
                self._failed.set_result(self._output.config_error())
                return
            steady = self._ready_since is not None and time.monotonic() - self._ready_since >= STEADY_SECONDS
            if steady or self.client.completed_replies > replies:
                failures, pause = 0, 0.0
            else:
                pause = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
                failures += 1
            self.restarts += 1
            ENGINE_RESTARTS.inc()
            log.warning("the engine ended; restarting it", exit_code=code, pause=pause, last=self._output.last_lines())
            await asyncio.sleep(pause)

    async def _run_once(self) -> int:
        """Run the engine until it ends or turns out unhealthy. Returns its exit code."""
        self._output = EngineOutput()
        self._ready_since = None
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bot.engine_process.guard",
            str(os.getpid()),
            str(GRACE_SECONDS),
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=LINE_LIMIT,
            env=engine_environment() | self._secrets,
            start_new_session=True,  # Ctrl-C in the terminal must reach only the bot
        )
        self.pid = process.pid
        forwarding = asyncio.create_task(self._output.forward(process.stdout))
        watching = asyncio.create_task(self._watch_health())
        exited = asyncio.create_task(process.wait())
        try:
            await asyncio.wait([watching, exited], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._ready.clear()
            self.client.state = "restarting"
            watching.cancel()
            await _end(process, exited)
            await asyncio.wait([forwarding], timeout=1)
            forwarding.cancel()
            await asyncio.gather(forwarding, watching, return_exceptions=True)
        return exited.result()

    async def _watch_health(self) -> None:
        """Return once a running engine must be restarted: it hangs, or did not become ready in time."""
        deadline = time.monotonic() + LOAD_SECONDS
        while not await self.client.ready():
            if time.monotonic() > deadline:
                log.error("the engine did not become ready", seconds=LOAD_SECONDS)
                return
            await asyncio.sleep(POLL_SECONDS)
        self._ready_since = time.monotonic()
        failed_checks = 0
        while failed_checks < MAX_FAILED_CHECKS:
            if failed_checks == 0:
                self.client.state = "ready"
                self._ready.set()
            self._check_requested.clear()
            with contextlib.suppress(TimeoutError):
                pause = HEALTH_SECONDS if failed_checks == 0 else HEALTH_SECONDS / 5
                await asyncio.wait_for(self._check_requested.wait(), pause)
            if await self.client.ready():
                failed_checks = 0
                continue
            failed_checks += 1
            self._ready.clear()
            self.client.state = "restarting"
        log.error("the engine runs but fails its health checks; restarting it")


async def _end(process: asyncio.subprocess.Process, exited: asyncio.Task[int]) -> None:
    """Close the guard's pipe and wait. A guard that hangs is killed, and the kernel ends its child with it."""
    if process.stdin is not None:
        process.stdin.close()
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)  # somebody may have stopped it
    await asyncio.wait([exited], timeout=2 * GRACE_SECONDS)
    if not exited.done():
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.wait([exited])
