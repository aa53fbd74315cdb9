"""The engine as a process of ours: started, watched, started again, and taken along when we go.

Knows the engine's command line and its /health; what the engine is made of stays behind HTTP.
`bot.engine_process.guard` sits in between and sees to it that no process is left, however this one ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from bot.engine_client.client import EngineClient
from bot.errors import EXIT_CONFIG, ConfigError
from bot.settings import PREFIX, Settings

log = structlog.get_logger(__name__)
engine_log = structlog.get_logger("engine")

GRACE_SECONDS = 6.0  # between SIGTERM and SIGKILL
LOAD_SECONDS = 1800.0  # a large checkpoint from a slow disk
POLL_SECONDS = 0.1
WATCH_SECONDS = 5.0
SICK_CHECKS = 3
BACKOFF_SECONDS = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0)
STREAM_INTERVAL = 0.05  # seconds between two pieces of a reply: nobody reads faster, and each piece costs both sides
STEADY_SECONDS = 60.0  # after so long a life, the next death counts as the first

_ROOT = Path(__file__).resolve().parent.parent.parent
_RANK_EXIT = re.compile(rf"exitcode\s*:\s*{EXIT_CONFIG}\b")
_FLAGS = {
    "--nproc-per-node": "GUILDLLAMA_GPUS",
    "--max-seq-len": "GUILDLLAMA_MAX_SEQ_LEN",
    "--device": "GUILDLLAMA_DEVICE",
    "--quantize": "GUILDLLAMA_QUANTIZE",
}
_LINE_LIMIT = 64 * 1024


def engine_command(settings: Settings, uds: Path) -> list[str]:
    """How the engine is started with these settings."""
    python = [sys.executable, "-m"]
    gpus = settings.gpus or 1
    if gpus > 1:
        # No restarts by the launcher: they are made here, where they are seen, and a bad setting is not tried again.
        launcher = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(gpus), "--max-restarts", "0"]
        python += ["torch.distributed.run", *launcher, "-m"]
    command = [*python, "engine", "--model", settings.model, "--uds", str(uds)]
    if gpus == 1:
        command.append("--exit-with-parent")
    command += ["--stream-interval", str(STREAM_INTERVAL)]
    if settings.max_seq_len is not None:
        command += ["--max-seq-len", str(settings.max_seq_len)]
    if settings.device != "auto":
        command += ["--device", settings.device]
    if settings.quantize != "auto":
        command += ["--quantize", settings.quantize]
    return command + shlex.split(settings.engine_args)


class EngineProcess:
    """`client` talks to it from the first moment on; it answers that the model is loading until it is there."""

    def __init__(self, settings: Settings, *, command: Sequence[str] | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="guildllama-"))  # mode 0700
        self._uds = self._folder / "engine.sock"
        self._command = [*command, "--uds", str(self._uds)] if command else engine_command(settings, self._uds)
        self.client = EngineClient("http://engine/v1", uds=str(self._uds), state="loading")
        self.client.on_timeout = self.check_now
        self.restarts = 0
        self.pid: int | None = None
        self._last_lines: deque[str] = deque(maxlen=3)
        self._said: deque[str] = deque(maxlen=50)  # the engine's own lines, without its launcher's
        self._bad_config = False
        self._ready = asyncio.Event()
        self._look = asyncio.Event()
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
        if self._task is None:
            self._task = asyncio.create_task(self._supervise(), name="engine supervisor")

    async def stop(self) -> None:
        """End the engine with everything it started. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self.client.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def check_now(self) -> None:
        """A reply did not come: have a look at once, and do not call the engine ready until it says so itself."""
        self._look.set()

    @property
    def ready(self) -> bool:
        return self._ready.is_set()

    async def wait_ready(self) -> None:
        """Wait until the model answers. Raises ConfigError when it never will."""
        ready = asyncio.create_task(self._ready.wait())
        either: list[asyncio.Future[Any]] = [ready, self._failed]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if self._failed.done():
            raise self._failed.result()

    async def failed(self) -> ConfigError:
        """Wait for the error that makes starting again pointless; most processes never see one."""
        return await asyncio.shield(self._failed)

    async def _supervise(self) -> None:
        deaths = 0
        while True:
            started = time.monotonic()
            code = await self._one_life()
            if code == EXIT_CONFIG or self._bad_config:
                self._failed.set_result(self._config_error())
                return
            if time.monotonic() - started > STEADY_SECONDS:
                deaths = 0
            pause = BACKOFF_SECONDS[min(deaths, len(BACKOFF_SECONDS) - 1)]
            deaths += 1
            self.restarts += 1
            log.warning("the engine ended and is started again", exit_code=code, pause=pause, last=self._tail())
            await asyncio.sleep(pause)

    async def _one_life(self) -> int:
        """From start to end of one process (and those that it starts)."""
        self._last_lines.clear()
        self._said.clear()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bot.engine_process.guard",
            str(GRACE_SECONDS),
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINE_LIMIT,
            env=_environment(os.environ),
            start_new_session=True,  # Ctrl-C in the terminal is for us
        )
        self.pid = process.pid
        forward = asyncio.create_task(self._forward(process))
        watch = asyncio.create_task(self._watch())
        exited = asyncio.create_task(process.wait())
        try:
            await asyncio.wait([watch, exited], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._ready.clear()
            self.client.state = "restarting"
            watch.cancel()
            await _end(process, exited)
            await asyncio.wait([forward], timeout=1)
            forward.cancel()
            await asyncio.gather(forward, watch, return_exceptions=True)
        return exited.result()

    async def _watch(self) -> None:
        """Returns when the process lives but is of no use."""
        deadline = time.monotonic() + LOAD_SECONDS
        while not await self.client.ready():
            if time.monotonic() > deadline:
                log.error("the engine did not become ready", seconds=LOAD_SECONDS)
                return
            await asyncio.sleep(POLL_SECONDS)
        sick = 0
        while sick < SICK_CHECKS:
            if sick == 0:
                self.client.state = "ready"
                self._ready.set()
            self._look.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), WATCH_SECONDS if sick == 0 else WATCH_SECONDS / 5)
            if await self.client.ready():
                sick = 0
                continue
            sick += 1
            self._ready.clear()
            self.client.state = "restarting"
        log.error("the engine runs but is not well; it is started again")

    async def _forward(self, process: asyncio.subprocess.Process) -> None:
        """Its lines into our log."""
        if process.stdout is None:
            return
        while True:
            try:
                raw = await process.stdout.readline()
            except ValueError:  # a line beyond the limit: dropped
                continue
            if not raw:
                return
            line = raw.decode(errors="replace").rstrip()
            if not line:
                continue
            self._last_lines.append(line)
            if line.startswith("engine: "):
                self._said.append(line.removeprefix("engine: "))
            engine_log.info(line.removeprefix("engine: "))
            if _RANK_EXIT.search(line):
                self._bad_config = True

    def _config_error(self) -> ConfigError:
        # Every rank finds the same mistake; the first one's words have no number in front.
        by_first = [line for line in self._said if not line.startswith("[rank")]
        problem = (by_first or [*self._said] or [*self._last_lines] or ["it did not say why"])[-1]
        for flag, setting in _FLAGS.items():
            problem = problem.replace(flag, setting)
        return ConfigError(
            "The engine refused its settings", problem, "Check GUILDLLAMA_MODEL and the other engine settings."
        )

    def _tail(self) -> str:
        return " | ".join(self._last_lines)


async def _end(process: asyncio.subprocess.Process, exited: asyncio.Task[int]) -> None:
    """Close the guard's pipe and wait; a guard that hangs is killed, and its child with it."""
    if process.stdin is not None:
        process.stdin.close()
    await asyncio.wait([exited], timeout=2 * GRACE_SECONDS)
    if not exited.done():
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.wait([exited])


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What the engine is to see: no token, no database, and the folder that its package lies in."""
    kept = {name: value for name, value in ours.items() if not name.upper().startswith(PREFIX)}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), ours.get("PYTHONPATH")]))
    kept["PYTHONUNBUFFERED"] = "1"
    return kept
