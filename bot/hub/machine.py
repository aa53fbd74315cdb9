"""What this machine has for a model: memory, and GPUs as `nvidia-smi` names them. Imports no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_SMI_SECONDS = 5.0
_QUERY = ("--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU with its whole memory, as another program may leave it later."""

    name: str
    memory: int


@dataclass(frozen=True, slots=True)
class Machine:
    """Memory in bytes; 0 if it cannot be found out."""

    memory: int
    cores: int = 1
    gpus: tuple[Gpu, ...] = ()


def this_machine() -> Machine:
    """Look at this machine. Takes a moment where there are GPUs; raises nothing."""
    return Machine(_memory(), _cores(), parse_gpus(_nvidia_smi()))


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def _memory(limits: tuple[Path, ...] = _MEMORY_LIMITS) -> int:
    """The memory that this process may use: the machine's, or less in a container."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
    for path in limits:
        try:
            limit = int(path.read_text())
        except (OSError, ValueError):  # "max", or no such group
            continue
        if limit > 0:
            total = min(total, limit)
    return total


def _nvidia_smi(which: Callable[[str], str | None] = shutil.which) -> str:
    program = which("nvidia-smi")
    if program is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603
            [program, *_QUERY], capture_output=True, text=True, timeout=_SMI_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """The GPUs of nvidia-smi's lines; a line of another form is left out."""
    gpus = []
    for line in text.splitlines():
        name, _, mebibytes = line.rpartition(",")
        if name and mebibytes.strip().isdecimal():
            gpus.append(Gpu(name.strip(), int(mebibytes) << 20))
    return tuple(gpus)
