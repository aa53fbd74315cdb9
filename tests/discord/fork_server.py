"""Starts bots by forking a process that has imported everything: a restart then takes no seconds of imports.

Run as a script, it reads a JSON object a line (environment, folder, log file), forks, and answers with the process id.
Each bot is a process of its own, as if `guildllama run` had been called; what it inherits is code only.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.discord.harness import ROOT, BotProcess


class ForkServer:
    """A running fork server."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._turn = asyncio.Lock()

    def bot(self, environment: dict[str, str], folder: Path) -> ForkedBot:
        """A bot that is not started yet."""
        return ForkedBot(self, environment, folder)

    async def fork(self, environment: dict[str, str], folder: Path, log_file: Path) -> int:
        """Start a bot and return its process id."""
        assert self._process.stdin
        assert self._process.stdout
        wanted = {"environment": environment, "folder": str(folder), "log_file": str(log_file)}
        async with self._turn:
            self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
            await self._process.stdin.drain()
            return int(await self._process.stdout.readline())


class ForkedBot(BotProcess):
    """One run of the bot, as a child of the fork server."""

    def __init__(self, server: ForkServer, environment: dict[str, str], folder: Path) -> None:
        super().__init__(environment, folder)
        self._server = server
        self.pid = 0

    async def start(self) -> None:
        self.pid = await self._server.fork(self.environment, self.folder, self.log_file)

    def send(self, number: signal.Signals) -> None:
        if self.running:
            os.kill(self.pid, number)

    async def wait(self, timeout: float = 30.0) -> int:
        """Wait for its end. The exit code is not known here: 0."""
        async with asyncio.timeout(timeout):
            while self.running:  # noqa: ASYNC110 - it is no child of this process
                await asyncio.sleep(0.01)
        return 0

    async def kill(self) -> None:
        self.send(signal.SIGKILL)
        await self.wait()

    @property
    def running(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return self.pid > 0


@asynccontextmanager
async def fork_server() -> AsyncIterator[ForkServer]:
    """A fork server for one test or module."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GUILDLLAMA_", "PYTEST_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, env={**inherited, "PYTHONPATH": str(ROOT)}, cwd=ROOT, start_new_session=True,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield ForkServer(process)
    finally:
        assert process.stdin
        process.stdin.close()
        await process.wait()


def main() -> None:
    """Fork for each line of the standard input, until it ends."""
    import bot.chat.recovery
    import bot.guilds.retention
    import bot.run_discord
    import bot.services  # noqa: F401
    from bot.cli import main as run_cli

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended bots leave no zombies
    for line in sys.stdin:
        wanted = json.loads(line)
        pid = os.fork()
        if pid:
            print(pid, flush=True)  # noqa: T201
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.chdir(wanted["folder"])
        os.environ.update(wanted["environment"])
        log = os.open(wanted["log_file"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.argv = ["guildllama", "run"]
        run_cli()
        return


if __name__ == "__main__":
    main()
