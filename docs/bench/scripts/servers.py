"""Starts this engine's server and llama.cpp's with the same settings, for llama_cpp.py."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.bench.http import HttpClient

SLOTS, CONTEXT = 8, 1024
START_TIMEOUT = 600.0  # seconds
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    """A running server; `name` says whose."""

    name: str
    port: int
    process: "subprocess.Popen[bytes]"
    client: HttpClient

    def cpu_seconds(self) -> float:
        """Processor time of its threads until now."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def is_ready(self) -> bool:
        """Whether it answers that its model is loaded."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False


@contextmanager
def serve(name: str, command: Sequence[str], environment: dict[str, str]) -> Iterator[Server]:
    """Start a server, wait until it is ready, and stop it at the end; `command` has "PORT" where its port belongs."""
    port = free_port()
    filled = [str(port) if word == "PORT" else word for word in command]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(filled, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=errors)
        server = Server(name, port, process, HttpClient("127.0.0.1", port, "model"))
        try:
            deadline = time.monotonic() + START_TIMEOUT
            while not server.is_ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    errors.seek(0)
                    raise SystemExit(f"{name} did not start: {errors.read().decode(errors='replace')[-2000:]}")
                time.sleep(0.2)
            yield server
            process.terminate()
            process.wait(60)
        finally:
            process.kill()
            process.wait()


def our_command(model: Path, speculate: str) -> list[str]:
    """This engine's command line."""
    return [
        sys.executable, "-m", "engine", "--model", str(model), "--served-model-name", "model", "--device", "cpu",
        "--port", "PORT", "--max-batch", str(SLOTS), "--max-seq-len", str(CONTEXT), "--speculate", speculate,
        "--no-repetition-guard",
    ]  # fmt: skip


def peer_command(binary: Path, model: Path, threads: int) -> list[str]:
    """llama.cpp's; its context is that of all slots together."""
    return [
        str(binary), "-m", str(model), "--alias", "model", "--host", "127.0.0.1", "--port", "PORT",
        "-t", str(threads), "-tb", str(threads), "-np", str(SLOTS), "-c", str(SLOTS * CONTEXT),
    ]  # fmt: skip


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
