"""Runs a worker: a process of its own for one PDF or picture, with limits on memory, CPU time and output.

Whatever a hostile file does to its reader happens there, and ends with it. Knows pipes and processes; does not know
what the workers read. Nothing is written to disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

_ROOT = Path(__file__).resolve().parent.parent.parent
_HEADER_BYTES = 4096
_KEPT_VARIABLES = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "SYSTEMROOT")


class WorkerFailed(Exception):
    """The worker was ended by its limits or died. `timed_out`: it took too long."""

    def __init__(self, reason: str, *, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


@dataclass(frozen=True, slots=True)
class WorkerAnswer:
    """What a worker made of a file: a status of its own, numbers, and the result."""

    status: str
    numbers: Mapping[str, object]
    payload: bytes = field(repr=False)


async def run_worker(module: str, data: bytes, *arguments: str, seconds: float, max_output: int) -> WorkerAnswer:
    """Give the file to a new process of this module and return its answer. Raises WorkerFailed.

    The process is gone when this returns, also if the caller is cancelled.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-B", "-m", module, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,  # a traceback may have the file's words
        cwd=_ROOT,  # so that it imports the same code
        env=_environment(os.environ),
    )
    try:
        async with asyncio.timeout(seconds):
            output = await _exchange(process, data, max_output + _HEADER_BYTES)
            code = await process.wait()
    except TimeoutError:
        log.warning("a worker took too long", worker=module, seconds=seconds)
        raise WorkerFailed("timeout", timed_out=True) from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())
    if output is None:
        log.warning("a worker wrote too much", worker=module)
        raise WorkerFailed("too much output")
    if code != 0:
        log.warning("a worker ended", worker=module, exit_code=code)
        raise WorkerFailed(f"exit code {code}", timed_out=-code == signal.SIGXCPU)
    return _answer(module, output)


async def _exchange(process: asyncio.subprocess.Process, data: bytes, limit: int) -> bytes | None:
    """Write the file and read the answer; None if the answer is larger than `limit`."""
    source, sink = process.stdout, process.stdin
    if source is None or sink is None:
        raise WorkerFailed("no pipes")
    writing = asyncio.ensure_future(_feed(sink, data))
    try:
        output = bytearray()
        while piece := await source.read(64 << 10):
            output += piece
            if len(output) > limit:
                process.kill()
                return None
        return bytes(output)
    finally:
        writing.cancel()
        await asyncio.wait([writing])


async def _feed(pipe: asyncio.StreamWriter, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # the worker may have seen enough, or died; its exit code says which
        pipe.write(data)
        await pipe.drain()
    pipe.close()


def _answer(module: str, output: bytes) -> WorkerAnswer:
    header, _, payload = output.partition(b"\n")
    try:
        numbers = json.loads(header)
        return WorkerAnswer(str(numbers.pop("status")), numbers, payload)
    except (ValueError, AttributeError, KeyError):
        log.warning("a worker's answer cannot be read", worker=module)
        raise WorkerFailed("unreadable") from None


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Nothing of ours: no token, no key, no database URL."""
    return {
        name: value
        for name, value in environ.items()
        if name in _KEPT_VARIABLES or name.startswith(("COVERAGE_", "COV_"))
    }
