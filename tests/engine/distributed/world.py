"""Several ranks as processes of this machine, without a launcher: their output and their exit codes."""

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[3]


class World:
    """`with World(2, "serve", model=…) as world:` starts the ranks, and kills those left at the end."""

    def __init__(self, size: int, job: str, **arguments: object) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        base = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
        base |= {"OMP_NUM_THREADS": "1"}
        if arguments.get("device", "cpu") == "cpu":
            base |= {"PYTHONWARNINGS": "error"}
        command = [sys.executable, "-m", "tests.engine.distributed.rank_worker", job, json.dumps(arguments)]
        self._ranks = [
            subprocess.Popen(
                command,
                env=base | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(size)
        ]
        self._lines: queue.Queue[str] = queue.Queue()
        self.said: list[list[str]] = [[] for _ in range(size)]  # the lines that each rank has printed
        self._readers = [threading.Thread(target=self._read, args=(rank,), daemon=True) for rank in range(size)]
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
        self._ranks[rank].send_signal(number)

    def codes(self, timeout: float = 60.0) -> list[int]:
        """Wait until all ranks have ended; their exit codes."""
        deadline = time.monotonic() + timeout
        codes = [rank.wait(max(0.01, deadline - time.monotonic())) for rank in self._ranks]
        for reader in self._readers:
            reader.join(10)
        return codes

    def code(self, rank: int, timeout: float) -> int:
        return self._ranks[rank].wait(timeout)

    def __enter__(self) -> "World":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for rank in self._ranks:
            rank.kill()
            rank.wait()
        for reader in self._readers:
            reader.join(10)

    def _read(self, rank: int) -> None:
        stream = self._ranks[rank].stdout
        if stream is None:
            return
        with stream:
            for line in stream:
                self.said[rank].append(line.rstrip())
                if rank == 0:
                    self._lines.put(line.rstrip())
