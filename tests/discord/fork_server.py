"""Starts bots by forking a process that has imported everything: a start then takes no seconds of imports.

Run as a script, it reads a JSON object a line (environment, folder, log file), forks, and answers with the process id.
Each bot is a process of its own, as if `guildllama run` had been called; what it inherits is code only. There is one
fork server for each process of pytest.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.discord.bot_process import ROOT, BotProcess


class ForkServer:
    """A running fork server."""

    def __init__(self) -> None:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("GUILDLLAMA_", "PYTEST_"))
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__], env={**inherited, "PYTHONPATH": str(ROOT)}, cwd=ROOT, text=True,
            start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        atexit.register(self._close)

    def fork(self, environment: dict[str, str], folder: Path, log_file: Path) -> int:
        """Start a bot and return its process id."""
        assert self._process.stdin
        assert self._process.stdout
        wanted = {"environment": environment, "folder": str(folder), "log_file": str(log_file)}
        print(json.dumps(wanted), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def _close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@functools.cache
def fork_server() -> ForkServer:
    """The fork server of this process, started at the first use."""
    return ForkServer()


class ForkedBot(BotProcess):
    """One run of the bot, as a child of the fork server."""

    pid = 0

    async def start(self) -> None:
        self.pid = await asyncio.to_thread(fork_server().fork, self.environment, self.folder, self.log_file)

    def send(self, number: signal.Signals) -> None:
        if self.running:
            os.kill(self.pid, number)

    async def wait(self, timeout: float = 30.0) -> int:
        """Wait for its end and return the exit code."""
        async with asyncio.timeout(timeout):
            while self.running:  # noqa: ASYNC110 - it is no child of this process
                await asyncio.sleep(0.01)
        code = _code_file(self.log_file)
        return int(code.read_text()) if code.exists() else -signal.SIGKILL

    async def kill(self) -> None:
        if self.running:
            self.send(signal.SIGKILL)
            await self.wait()

    @property
    def running(self) -> bool:
        if not self.pid:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True


def forked_bot(environment: dict[str, str], folder: Path) -> BotProcess:
    """A bot of the fork server that is not started yet."""
    return ForkedBot(environment, folder)


def _code_file(log_file: Path) -> Path:
    """Where a bot that ends by itself leaves its exit code."""
    return log_file.with_suffix(".exit")


def main() -> None:
    """Fork for each line of the standard input, until it ends."""
    import bot.chat.recovery
    import bot.guilds.retention
    import bot.run_discord
    import bot.services  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended bots leave no zombies
    for line in sys.stdin:
        wanted = json.loads(line)
        pid = os.fork()
        if pid:
            print(pid, flush=True)  # noqa: T201
            continue
        _run(wanted["environment"], wanted["folder"], Path(wanted["log_file"]))


def _run(environment: dict[str, str], folder: str, log_file: Path) -> None:
    """`guildllama run` in the forked process, which ends with it."""
    from bot.cli import main as run_cli

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["guildllama", "run"]
    code = 0
    try:
        run_cli()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    _code_file(log_file).write_text(str(code))
    os._exit(code)


if __name__ == "__main__":
    main()
