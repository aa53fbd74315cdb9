"""Starts the engine as its users do: a process of its own, alone or under torchrun, on a real socket."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden"
START_TIMEOUT = 90.0  # seconds; generous, for a busy machine


class EngineProcess:
    """A running engine; leaving the `with` block kills it and its children."""

    def __init__(
        self,
        *flags: str,
        log: Path,
        ranks: int = 0,
        restarts: int = 0,
        shell: bool = False,
        env: dict[str, str] | None = None,
    ) -> None:
        command = [sys.executable, "-m", "engine", *flags]
        if ranks:
            launcher = ["torch.distributed.run", "--nproc-per-node", str(ranks), "--max-restarts", str(restarts)]
            rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
            command = [sys.executable, "-m", *launcher, *rendezvous, "-m", "engine", *flags]
        if shell:  # a parent that can be killed apart from the engine
            command = ["sh", "-c", '"$@" & wait', "sh", *command]
        self._log = log
        self._file = log.open("wb")
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=self._file,
            stderr=self._file,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        )

    @property
    def output(self) -> str:
        """Its stdout and stderr so far."""
        return self._log.read_text(errors="replace")

    @property
    def url(self) -> str:
        """Where it listens, once it does; the newest address if it was restarted."""
        return _wait_for(lambda: (re.findall(r"listening on (\S+)", self.output) or [""])[-1], self, "listening")

    def ready(self, times: int = 1) -> "EngineProcess":
        """Waits until the model has been loaded `times` times."""
        _wait_for(lambda: "yes" if self.output.count(" is ready after ") >= times else "", self, "ready")
        return self

    def rank(self, number: int) -> int:
        """The process id of a rank under torchrun."""
        for child in children(self.process.pid):
            with contextlib.suppress(OSError):
                if f"RANK={number}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                    return child
        raise LookupError(f"no rank {number}")

    def terminate(self) -> float:
        """Sends SIGTERM; returns the seconds until it has exited."""
        started = time.monotonic()
        self.process.terminate()
        self.process.wait(20)
        return time.monotonic() - started

    def __enter__(self) -> "EngineProcess":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in [self.process.pid, *children(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._file.close()


def children(pid: int) -> list[int]:
    """The process ids of its direct children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_exited(pid: int, timeout: float = 10.0) -> None:
    """Fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still running"
        time.sleep(0.05)


def golden(name: str) -> Iterator[tuple[list[dict[str, str]], str]]:
    """Dialogs, each with the reference's greedy reply of 24 tokens."""
    for entry in json.loads((GOLDEN / name / "golden.json").read_text())["dialogs"]:
        yield entry["dialog"], entry["greedy_text"]


def ask(http: httpx.Client, messages: Sequence[object], **fields: object) -> httpx.Response:
    """A greedy chat request."""
    return http.post("/v1/chat/completions", json={"messages": messages, "temperature": 0, **fields})


def _wait_for(look: Callable[[], str], engine: EngineProcess, state: str) -> str:
    """The first non-empty result of `look`."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if found := look():
            return found
        if engine.process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"the engine is not {state}:\n{engine.output}")
