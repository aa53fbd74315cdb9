"""Several ranks as processes of this machine, without a launcher: their output and their exit codes.

The ranks are forked from a process that has imported torch and the engine once; each is a process of its own with its
own environment, streams and exit code.
"""

import contextlib
import json
import multiprocessing
import os
import queue
import secrets
import signal
import socket
import sys
import threading
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import ClassVar

ROOT = Path(__file__).parents[3]
_JOBS = "tests.engine.distributed.rank_worker"
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([_JOBS])


def free_port() -> int:
    """A free port for a process that starts now, below Linux's ephemeral ports, so that no other socket gets it."""
    while True:
        with (
            contextlib.suppress(OSError),
            socket.create_server(("127.0.0.1", 20000 + secrets.randbelow(12000))) as free,
        ):
            port: int = free.getsockname()[1]
            return port


class World:
    """`with World(2, "serve", model=…) as world:` starts the ranks, and kills those left at the end."""

    running: ClassVar[set["World"]] = set()  # worlds of all threads whose `with` block has not ended

    def __init__(self, size: int, job: str, **arguments: object) -> None:
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
        pipes = [_FORKS.Pipe(duplex=False) for _ in range(size)]
        self._ranks = [
            _FORKS.Process(
                target=run_rank,
                args=(writer, environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, job, json.dumps(arguments)),
                daemon=True,
            )
            for rank, (_, writer) in enumerate(pipes)
        ]
        for process, (_, writer) in zip(self._ranks, pipes, strict=True):
            process.start()
            writer.close()
        self._lines: queue.Queue[str] = queue.Queue()
        self.said: list[list[str]] = [[] for _ in range(size)]  # the lines that each rank has printed
        self._readers = [
            threading.Thread(target=self._read, args=(rank, reader), daemon=True)
            for rank, (reader, _) in enumerate(pipes)
        ]
        for reader in self._readers:
            reader.start()

    def wait_for(self, start: str, timeout: float = 60.0) -> str:
        """The next line of rank 0 that starts with `start`."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"rank 0 never printed {start!r}; {self.said}") from None
            if line.startswith(start):
                return line

    def signal(self, rank: int, number: signal.Signals) -> None:
        pid = self._ranks[rank].pid
        assert pid
        os.kill(pid, number)

    def codes(self, timeout: float = 60.0) -> list[int]:
        """Wait until all ranks have ended; their exit codes."""
        deadline = time.monotonic() + timeout
        codes = [self.code(rank, max(0.01, deadline - time.monotonic())) for rank in range(len(self._ranks))]
        for reader in self._readers:
            reader.join(10)
        return codes

    def code(self, rank: int, timeout: float) -> int:
        process = self._ranks[rank]
        process.join(timeout)
        assert process.exitcode is not None, f"rank {rank} is still running; {self.said}"
        return process.exitcode

    def kill(self) -> None:
        """Kill all ranks now. A thread that waits for them continues."""
        for rank in self._ranks:
            rank.kill()

    def __enter__(self) -> "World":
        self.running.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.running.discard(self)
        self.kill()
        for rank in self._ranks:
            rank.join()
        for reader in self._readers:
            reader.join(10)

    def _read(self, rank: int, pipe: Connection) -> None:
        with os.fdopen(os.dup(pipe.fileno())) as stream:
            pipe.close()
            for line in stream:
                self.said[rank].append(line.rstrip())
                if rank == 0:
                    self._lines.put(line.rstrip())


def run_rank(output: Connection, environment: dict[str, str], job: str, arguments: str) -> None:
    """In the forked process: become a rank, whose two output streams are the pipe."""
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    os.chdir(ROOT)
    os.environ.update(environment)
    given = json.loads(arguments)
    if given.get("device", "cpu") == "cpu":
        warnings.simplefilter("error")

    from tests.engine.distributed.rank_worker import main

    main(job, given)
    sys.stdout.flush()
