"""Compiles the C++ in csrc/ for this machine's processor, once, with torch's extension builder, and loads it.

Where the code cannot be built, the engine computes in plain torch. This module knows files and compilers, not what the
compiled code computes.
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

from engine.errors import ConfigError

SOURCES = Path(__file__).parent / "csrc"
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-Wno-psabi", "-pthread")
# By the instructions that are used at most: flags of the processor that they need, and the compiler's flags. Those of
# AMX are asked for at run time, since the kernel must allow them as well. "emulated-amx" is for tests.
INSTRUCTION_SETS = {
    "avx2": ({"avx2", "fma", "f16c"}, ("-mno-avx512f",)),
    "avx512": ({"avx512f", "avx512bw"}, ("-mno-avx512vnni", "-DGUILDLLAMA_NO_AMX")),
    "avx512-vnni": ({"avx512f", "avx512bw", "avx512_vnni"}, ("-DGUILDLLAMA_NO_AMX",)),
    "amx": ({"avx512f", "avx512bw", "avx512_vnni", "amx_tile", "amx_int8"}, ()),
    "emulated-amx": ({"avx512f", "avx512bw"}, ("-DGUILDLLAMA_EMULATE_AMX",)),
}
COMPILE_TIMEOUT = 180.0  # seconds; a build takes a few
# Runs in a process of its own: torch prints to stdout, warns, and finds ninja only on the PATH. Its standard input ends
# when we do, and ninja then stops the compilers, which would otherwise go on without us.
BUILD_SCRIPT = """
import os, signal, sys, threading
def end_with_parent():
    os.read(0, 1)
    os.killpg(0, signal.SIGTERM)
threading.Thread(target=end_with_parent, daemon=True).start()
from torch.utils.cpp_extension import load
build_directory, name, source, *flags = sys.argv[1:]
load(name, [source], extra_cflags=flags, build_directory=build_directory, is_python_module=False)
"""


@cache
def compiled_library(instructions: str | None = None) -> ctypes.CDLL | None:
    """The compiled library, or None if it could not be built. Reports a build, or the reason for None, on stderr.

    `instructions`: one of INSTRUCTION_SETS, by default GUILDLLAMA_INSTRUCTIONS; if unset, the best that there are.
    Raises ConfigError where the processor lacks them.
    """
    chosen = instructions or os.environ.get("GUILDLLAMA_INSTRUCTIONS") or "auto"
    if missing := missing_instructions(chosen):
        raise ConfigError("GUILDLLAMA_INSTRUCTIONS", expected=missing, found=chosen)
    flags = (*FLAGS, *(INSTRUCTION_SETS[chosen][1] if chosen in INSTRUCTION_SETS else ()))
    try:
        path = cache_dir() / f"{_library_name(flags)}.so"
        if not path.exists():
            if reason := missing_requirement():
                raise OSError(reason)
            _build(path, flags)
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: the user has no home directory
        _say(f"no compiled code, computing in plain torch: {_reason(error)}")
        return None


def missing_instructions(chosen: str) -> str | None:
    """What is expected instead of an unknown name of instructions, or of those that the processor lacks; else None."""
    if chosen == "auto":
        return None
    if chosen not in INSTRUCTION_SETS:
        return f"auto or one of {', '.join(INSTRUCTION_SETS)}"
    lacking = INSTRUCTION_SETS[chosen][0] - set(_processor("flags").split())
    return f"what this processor has: it lacks {', '.join(sorted(lacking))}" if lacking else None


def missing_requirement() -> str | None:
    """What this machine lacks to build and run the code, as a sentence; None if it lacks nothing."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return "it needs a processor with AVX2"
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        return "it needs a C++ compiler"
    return None if shutil.which("ninja", path=_environment()["PATH"]) else "it needs ninja"


def cache_dir() -> Path:
    """The folder where torch keeps compiled extensions."""
    extensions = os.environ.get("TORCH_EXTENSIONS_DIR")
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(extensions) if extensions else Path(user_cache) / "torch_extensions"


def _build(path: Path, flags: tuple[str, ...]) -> None:
    """Compile in a temporary folder, then move the file into place, so that `path` never holds half a library.

    When several processes start at once, one compiles and the others wait for its file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f"{path.stem}-"
    with _locked(path.with_suffix(".lock")):
        for left in path.parent.glob(f"{prefix}*"):  # by a process that was killed in the middle
            shutil.rmtree(left, ignore_errors=True)
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as build_directory:
                _compile(path, build_directory, flags)


def _compile(path: Path, build_directory: str, flags: tuple[str, ...]) -> None:
    started = time.monotonic()
    command = [sys.executable, "-c", BUILD_SCRIPT, build_directory, path.stem, str(SOURCES / "step.cpp"), *flags]
    stdin, ours = os.pipe()
    try:
        subprocess.run(  # noqa: S603 - our own command
            command,
            stdin=stdin,
            start_new_session=True,  # a process group that it may end
            env=_environment(),
            check=True,
            capture_output=True,
            text=True,
            timeout=COMPILE_TIMEOUT,
        )
    finally:
        os.close(stdin)
        os.close(ours)
    Path(build_directory, path.name).replace(path)
    _say(f"compiled for this processor in {time.monotonic() - started:.0f} s: {path}")


def _environment() -> dict[str, str]:
    """Our environment, with this interpreter's scripts (pip may have installed ninja there) at the end of the PATH."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts")))
    return {**os.environ, "PATH": path}


def _library_name(flags: tuple[str, ...]) -> str:
    """A name that depends on sources, flags and processor: -march=native code may not run on another processor."""
    digest = hashlib.sha256(" ".join((*flags, platform.machine())).encode())
    for source in sorted(SOURCES.glob("*.[ch]*")):
        digest.update(source.read_bytes())
    for name in ("flags", "model name"):
        digest.update(_processor(name).encode())
    return f"guildllama_{digest.hexdigest()[:16]}"


def _processor(name: str) -> str:
    """What Linux says of the first processor, for instance its "flags"; empty elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file lock. The kernel releases it when the process ends, so a crash leaves nothing to clean up."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _reason(error: Exception) -> str:
    """One line: the compiler's first error, or the exception's own text."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in str(error.stderr).splitlines() if "error" in line.lower()]
        return lines[0].strip() if lines else "the compiler failed"
    return str(error)


def _say(text: str) -> None:
    sys.stderr.write(f"engine: {text}\n")
