"""One run of the bot as a process of its own: how `guildllama run` is started, observed and stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.fork_server import ROOT, ForkedProcess, fork_server, inherited_environment

COMMAND = (sys.executable, "-m", "bot", "run")


class BotProcess:
    """One run of the bot. Its output goes to a file, which `log()` reads."""

    def __init__(self, environment: dict[str, str], folder: Path, *, command: tuple[str, ...] = COMMAND) -> None:
        self.environment = environment
        self.folder = folder
        self.command = command
        self.process: asyncio.subprocess.Process | ForkedProcess | None = None
        self.log_file = folder / f"bot-{time.monotonic_ns()}.log"

    async def start(self) -> None:
        inherited = inherited_environment()
        path = os.pathsep.join(filter(None, (str(ROOT), inherited.get("PYTHONPATH"))))
        with self.log_file.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                cwd=self.folder,
                env={**inherited, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "", **self.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        assert self.process
        if self.process.returncode is None:
            self.process.send_signal(number)

    async def wait(self, timeout: float = 30.0) -> int:
        assert self.process
        async with asyncio.timeout(timeout):
            return await self.process.wait()

    async def stop(self, timeout: float = 40.0) -> int:
        self.send(signal.SIGTERM)
        return await self.wait(timeout)

    async def kill(self) -> None:
        if self.process and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""


class ForkedBot(BotProcess):
    """The same, forked from a process that has imported everything: a start then takes no seconds of imports."""

    host = ""
    """The name of the host that it believes to run on, if it is not this one."""
    constants: Mapping[str, object] = {}
    """Other values for constants of the program, by their full names."""

    async def start(self) -> None:
        self.process = await fork_server().start(
            "run", folder=self.folder, environment={**inherited_environment(), **self.environment},
            stdin=None, out=self.log_file, err=self.log_file, host=self.host, constants=self.constants,
        )  # fmt: skip
