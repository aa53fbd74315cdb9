"""What the workers share: they limit themselves, read one file from stdin, and write one answer to stdout.

Imports nothing that reads files, so that the limits hold before such code is loaded.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

_CPU_GRACE_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Result:
    """A worker's answer: a status, numbers about the result, and the result."""

    status: str
    numbers: dict[str, object] = field(default_factory=dict)
    payload: bytes = b""


def limit_resources(*, memory: int, cpu_seconds: int) -> None:
    """No more memory and CPU time than this, no files, no core dump, and a low priority beside the bot."""
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + _CPU_GRACE_SECONDS),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_AS, memory, memory),
    ):
        with contextlib.suppress(ValueError, OSError):  # macOS has no RLIMIT_AS; a lower limit may be set already
            resource.setrlimit(kind, (soft, hard))
    with contextlib.suppress(OSError):
        os.nice(5)


def serve(work: Callable[[bytes], Result]) -> None:
    """Answer for the file on stdin. What `work` raises becomes a status: `memory` or `broken`."""
    data = sys.stdin.buffer.read()
    try:
        result = work(data)
    except MemoryError:
        result = Result("memory")
    except Exception:  # any reader of a damaged file may raise anything; its text may have the file's words
        result = Result("broken")
    header = json.dumps({"status": result.status, **result.numbers}).encode()
    sys.stdout.buffer.write(header + b"\n" + result.payload)
    sys.stdout.buffer.flush()
    os._exit(0)  # no destructors: they could run for long after a bomb
