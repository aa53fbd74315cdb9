"""Runs `guildllama` by forking a process that has imported everything: a command then takes no seconds of imports.

Each command is a process of its own with its own folder, environment, streams and exit code; what it inherits is code
only. Tests of a new Python process itself (a terminal, a signal during the imports) start a real one instead.

Run as a script, this file is the server: on a Unix socket it reads one JSON object a connection, forks, and answers
with two lines, the process id and, at its end, the exit code.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

ROOT = Path(__file__).parents[1]
PRELOADED = (
    "models.migrate",
    "bot.run_discord",
    "bot.chat.recovery",
    "bot.guilds.retention",
    "bot.memory.job",
    "bot.memory.writer",
    "bot.terminal.commands",
    "bot.terminal.db_commands",
    "bot.terminal.doctor.examination",
    "bot.terminal.models_commands",
    "bot.terminal.persona_commands",
)
"""What commands import when they run: a second and a half of processor time for each bot that is started."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended. `code` is negative if a signal ended it."""

    code: int
    out: str
    err: str


class ForkedProcess:
    """A started command, with the interface of asyncio's processes as far as tests need it."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._end = asyncio.create_task(self._watch(reader, writer))

    async def _watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        self.returncode = int(await reader.readline())
        writer.close()
        return self.returncode

    async def wait(self) -> int:
        """Return the exit code once the process has ended."""
        return await asyncio.shield(self._end)

    def send_signal(self, number: int) -> None:
        """Send a signal unless the process has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """A running fork server."""

    def __init__(self, address: str, process: subprocess.Popen[bytes]) -> None:
        self._address = address
        self._process = process

    async def start(
        self,
        *arguments: str,
        folder: Path,
        environment: Mapping[str, str],
        stdin: Path | None,
        out: Path,
        err: Path,
        host: str = "",
        constants: Mapping[str, object] | None = None,
    ) -> ForkedProcess:
        """Start `guildllama` with these arguments; its output is appended to two files, which may be the same.

        `host`: the name of the host that it believes to run on. `constants`: values for names like
        "bot.chat.heartbeat.INTERVAL".
        """
        streams = {"stdin": str(stdin or os.devnull), "out": str(out), "err": str(err)}
        changed = {"host": host, "constants": dict(constants or {})}
        wanted = {"arguments": arguments, "folder": str(folder), "environment": dict(environment), **streams, **changed}
        reader, writer = await asyncio.open_unix_connection(self._address)
        writer.write(json.dumps(wanted).encode() + b"\n")
        return ForkedProcess(int(await reader.readline()), reader, writer)

    async def run(
        self, *arguments: str, folder: Path, environment: Mapping[str, str], stdin: str = "", seconds: float = 60
    ) -> Outcome:
        """Run `guildllama` to its end. Raises TimeoutError, after the process was killed."""
        with tempfile.TemporaryDirectory() as name:
            given, out, err = (Path(name) / stream for stream in ("in", "out", "err"))
            given.write_text(stdin)
            process = await self.start(
                *arguments, folder=folder, environment=environment, stdin=given, out=out, err=err
            )
            try:
                code = await asyncio.wait_for(process.wait(), seconds)
            finally:
                process.kill()
            return Outcome(code, out.read_text(), err.read_text())


def inherited_environment() -> dict[str, str]:
    """The environment of the tests without settings of ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("GUILDLLAMA_", "PYTEST_"))}


@functools.cache
def fork_server() -> ForkServer:
    """The fork server of this process, started at the first use. Processes that outlive it are not stopped."""
    address = str(Path(tempfile.gettempdir()) / f"guildllama-fork-{uuid.uuid4().hex[:12]}")
    process = subprocess.Popen(
        [sys.executable, __file__, address], env={**inherited_environment(), "PYTHONPATH": str(ROOT)}, cwd=ROOT,
        start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    process.stdout.close()
    atexit.register(process.communicate)  # closes its input, which ends it
    return ForkServer(address, process)


def serve(address: str) -> dict[str, object] | None:
    """Fork for each connection until the standard input ends. In a forked process: return what it is to run."""
    selector = selectors.DefaultSelector()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    selector.register(listener, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)
    print("ready", flush=True)  # noqa: T201
    while True:
        for key, _ in selector.select():
            if key.fileobj == 0:
                Path(address).unlink()
                return None
            if key.fileobj is not listener:
                _report_end(selector, key)
                continue
            connection, _ = listener.accept()
            wanted: dict[str, object] = json.loads(connection.makefile().readline())
            pid = os.fork()
            if not pid:
                return wanted
            connection.sendall(b"%d\n" % pid)
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))


def _report_end(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    pid, connection = cast("tuple[int, socket.socket]", key.data)
    selector.unregister(key.fileobj)
    os.close(key.fd)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with connection:
        try:
            connection.sendall(b"%d\n" % code)
        except BrokenPipeError:  # the test has ended
            return


def become(wanted: dict[str, object]) -> None:
    """Give this forked process what was wanted: streams, folder, environment, arguments, host and constants."""
    os.closerange(3, 4096)  # the server's sockets
    os.setsid()
    os.dup2(os.open(str(wanted["stdin"]), os.O_RDONLY), 0)
    for number, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(str(wanted[stream]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    os.closerange(3, 4096)
    os.chdir(str(wanted["folder"]))
    os.environ.clear()
    os.environ.update(cast("dict[str, str]", wanted["environment"]))
    sys.argv = ["guildllama", *cast("list[str]", wanted["arguments"])]
    if host := str(wanted["host"]):
        socket.gethostname = lambda: host
    for path, value in cast("dict[str, object]", wanted["constants"]).items():
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path
        setattr(importlib.import_module(module), name, value)


def main() -> None:
    """Import the program, and serve."""
    for module in PRELOADED:
        importlib.import_module(module)
    from bot.cli import main as run_cli

    if (wanted := serve(sys.argv[1])) is not None:
        become(wanted)
        run_cli()


if __name__ == "__main__":
    main()
