"""The machine under test: its GPUs and memory, and checkpoints of published shapes on its disk.

With `GUILDLLAMA_REHEARSAL=1` the tests run on a CPU with tiny models and two ranks, with `GUILDLLAMA_REHEARSAL=4` with
four ranks. This only tries out the tests.
"""

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.engine.server.process import ROOT, children

_REHEARSAL = int(os.environ.get("GUILDLLAMA_REHEARSAL") or 0)
REHEARSAL = _REHEARSAL > 0
DEVICE = "cpu" if REHEARSAL else "cuda"
MEMORY_POLL_INTERVAL = 0.5  # seconds between readings of memory that is being freed
_running: set[subprocess.Popen[str]] = set()


@functools.cache
def num_gpus() -> int:
    """How many ranks can have a GPU of their own."""
    return max(2, _REHEARSAL) if REHEARSAL else len(_smi("name"))


def world_sizes() -> list[int]:
    """1, 2, 4 and 8 ranks, as far as each has a GPU of its own."""
    return [size for size in (1, 2, 4, 8) if size <= num_gpus()]


def name() -> str:
    return "CPU" if REHEARSAL else _smi("name")[0]


def gpu_memory() -> list[int]:
    """MiB in use on each GPU, by any process."""
    return [0] * num_gpus() if REHEARSAL else [int(line) for line in _smi("memory.used")]


def smallest_gpu() -> int:
    """Total MiB of the GPU that has the least memory."""
    return 0 if REHEARSAL else min(int(line) for line in _smi("memory.total"))


def memory_returns_to(before: list[int], seconds: float) -> list[int]:
    """The memory in use once it is at most 16 MiB above `before`, or after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        now = gpu_memory()
        if all(used <= then + 16 for used, then in zip(now, before, strict=True)) or time.monotonic() > deadline:
            return now
        time.sleep(MEMORY_POLL_INTERVAL)


def peak_host_bytes(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


def report(what: str, **figures: object) -> None:
    """Print one JSON line of measurements."""
    sys.stdout.write(json.dumps({"test": what, "device": name(), **figures}) + "\n")
    sys.stdout.flush()


def run_module(*command: str) -> str:
    """Run `python -m command`; returns its standard output."""
    return run_python("-m", *command)


def run_python(*arguments: str, timeout: float = 240.0) -> str:
    """Run Python at the repository's root; returns its standard output."""
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        _running.add(process)
        try:
            output, errors = process.communicate(timeout=timeout)
        finally:
            _running.discard(process)
            _kill(process)
    assert process.returncode == 0, f"{arguments}: {output}{errors}"
    return output


def kill_running() -> None:
    """Kill the processes that `run_module` and `run_python` wait for in other threads."""
    for process in list(_running):
        _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and the ranks that it has started, which hold its pipes."""
    for pid in [process.pid, *children(process.pid)] if process.poll() is None else []:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@dataclass(slots=True)
class WrittenCheckpoint:
    """A checkpoint in Meta's layout that another process writes. `folder` waits until it is complete."""

    process: subprocess.Popen[bytes]
    _folder: Path
    started_at: float
    seconds: float = 0.0

    @property
    def folder(self) -> Path:
        if not self.seconds:
            assert self.process.wait(240) == 0, f"{self._folder} could not be written"
            self.seconds = time.monotonic() - self.started_at
        return self._folder

    @property
    def gigabytes(self) -> float:
        return sum(file.stat().st_size for file in self.folder.glob("*.pth")) / 1e9

    def delete(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def write_checkpoint(folder: Path, shape: str, *, layers: int | None = None) -> WrittenCheckpoint:
    """Start writing a published shape; in a rehearsal a tiny one with the same number of shards, up to two."""
    command = [sys.executable, "-m", "engine.bench.make_checkpoint", str(folder), "--shape", shape]
    if REHEARSAL and shape != "small":
        kv_heads, shards = {"7b": ("4", "1"), "13b": ("4", "2"), "70b": ("2", "2")}[shape]
        command[-1:] = ["tiny", "--kv-heads", kv_heads, "--shards", shards]
    elif layers:
        command += ["--layers", str(layers)]
    return WrittenCheckpoint(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL), folder, time.monotonic())


def _smi(field: str) -> list[str]:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return []
    command = [smi, f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return ended.stdout.splitlines() if ended.returncode == 0 else []
