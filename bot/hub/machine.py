"""The memory, cores and NVIDIA GPUs of this machine. Asks the system and `nvidia-smi`; imports no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_SMI_SECONDS = 5.0
_QUERY = ("--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. `memory`: its total bytes, including memory in use by other programs."""

    name: str
    memory: int


@dataclass(frozen=True, slots=True)
class Machine:
    """What a model can run on. `memory` is in bytes, 0 if unknown."""

    memory: int
    cores: int = 1
    gpus: tuple[Gpu, ...] = ()


def this_machine() -> Machine:
    """Look at this machine. Takes up to five seconds where there are GPUs; raises nothing."""
    return Machine(_memory(), _cores(), parse_gpus(_nvidia_smi()))


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def _memory() -> int:
    """The memory that this process may use: the machine's, or less in a container."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
    for path in _MEMORY_LIMITS:
        try:
            limit = int(path.read_text())
        except (OSError, ValueError):  # "max", or no such group
            continue
        if limit > 0:
            total = min(total, limit)
    return total


def _nvidia_smi() -> str:
    program = shutil.which("nvidia-smi")
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
    """The GPUs in nvidia-smi's output; lines of another form are skipped."""
    gpus = []
    for line in text.splitlines():
        name, _, mebibytes = line.rpartition(",")
        if name and mebibytes.strip().isdecimal():
            gpus.append(Gpu(name.strip(), int(mebibytes) << 20))
    return tuple(gpus)
