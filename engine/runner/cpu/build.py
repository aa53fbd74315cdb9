"""Compiles the C++ beside this file for this very processor, once, and loads it: torch's own extension machinery.

Without a compiler, on a processor that it does not suit, or when anything goes wrong, there is no library and the
engine computes in plain torch. It knows files and compilers, and nothing of what is compiled.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

SOURCES = Path(__file__).parent / "csrc"
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-Wno-psabi", "-pthread")
PATIENCE = 180.0  # seconds that the compiler may take; it takes a few
# In a process of its own: torch talks on stdout and warns, and finds ninja on the PATH only.
SCRIPT = """
import sys
from torch.utils.cpp_extension import load
folder, name, source, *flags = sys.argv[1:]
load(name, [source], extra_cflags=flags, build_directory=folder, is_python_module=False)
"""


@cache
def library() -> ctypes.CDLL | None:
    """The compiled code, or None: then plain torch does the work. Says on stderr that it compiled, or why not."""
    try:
        path = folder() / f"{_name()}.so"
        if not path.exists():
            if lack := missing():
                raise OSError(lack)
            _build(path)
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: nobody has no home
        _say(f"no compiled code, computing in plain torch: {_reason(error)}")
        return None


def missing() -> str | None:
    """What this machine lacks, if anything."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return "it needs a processor with AVX2"
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        return "it needs a C++ compiler"
    return None if shutil.which("ninja", path=_environment()["PATH"]) else "it needs ninja"


def folder() -> Path:
    """Where torch keeps compiled extensions."""
    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(base) / "torch_extensions"


def _build(path: Path) -> None:
    """Whole or not at all: compiled elsewhere, then moved. Of several processes one compiles and the others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=path.parent) as built:
        if path.exists():
            return
        began = time.monotonic()
        command = [sys.executable, "-c", SCRIPT, built, path.stem, str(SOURCES / "step.cpp"), *FLAGS]
        subprocess.run(  # noqa: S603 - our own command
            command, env=_environment(), check=True, capture_output=True, text=True, timeout=PATIENCE
        )
        Path(built, path.name).replace(path)
        _say(f"compiled for this processor in {time.monotonic() - began:.0f} s: {path}")


def _environment() -> dict[str, str]:
    """With the commands of this interpreter's packages, of which ninja may be one, behind those that are there."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts")))
    return {**os.environ, "PATH": path}


def _name() -> str:
    """Another one for other sources or another processor: code for this one need not run there."""
    digest = hashlib.sha256(" ".join((*FLAGS, platform.machine())).encode())
    for source in sorted(SOURCES.glob("*.[ch]*")):
        digest.update(source.read_bytes())
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        digest.update(next((line for line in lines if line.startswith("flags")), "").encode())
        digest.update(next((line for line in lines if line.startswith("model name")), "").encode())
    return f"guildllama_{digest.hexdigest()[:16]}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The lock goes with the process that holds it, so nothing has to be cleared after a crash."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in str(error.stderr).splitlines() if "error" in line.lower()]
        return lines[0].strip() if lines else "the compiler failed"
    return str(error)


def _say(text: str) -> None:
    sys.stderr.write(f"engine: {text}\n")
