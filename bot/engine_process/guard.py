"""Runs one command, and ends every process of it when the process that wanted it ends.

    python -m bot.engine_process.guard BOT SECONDS COMMAND...

Runs between the bot, whose process id is BOT, and the engine. Its standard input is a pipe that the bot holds open.
When the bot closes the pipe, the guard sends SIGTERM to every process that the command started, and SIGKILL after
SECONDS. A process group is not enough for that, since torchrun gives each rank its own session: on Linux the guard
becomes the subreaper of orphans, so all of them are its descendants. Exits as the command did.

A bot that was killed cannot ask for an orderly end, and a guard that is stopped (SIGSTOP) cannot bring it about. On
Linux the kernel then acts by itself: each process of the tree has asked for SIGKILL, which also ends stopped
processes, at the death of its parent. The guard asks for itself and for the command, and a rank below a launcher for
itself (engine/server/parent_death.py). The parent is here the thread that started the process: the bot's event loop
must run in a thread that lives as long as the bot. A process that is stopped in the first moments of its life, before
it has asked, is missed. Elsewhere (macOS) the guard must be running to end anything, and knows only the command's
process group: what is stopped together with the guard outlives the bot.

Imports only the standard library, to start fast and stay small.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_LINUX = sys.platform.startswith("linux")
_LAUNCHER_VARIABLE = "ENGINE_LAUNCHER_PID"
"""Tells the engine's ranks which process must not end before them (engine/server/parent_death.py)."""


def run(command: Sequence[str], grace: float, bot: int) -> int:
    """Run the command until it ends or standard input does, then end its descendants. Returns its exit code.

    `grace` is the time in seconds between SIGTERM and SIGKILL; `bot` is the process that must not end before this one.
    """
    _die_with_parent(bot)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    wake, waker = os.pipe()
    for fd in (wake, waker):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (*_STOP_SIGNALS, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    child = subprocess.Popen(  # noqa: S603  # the bot's own command line
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=functools.partial(_prepare_command, os.getpid()),
    )
    inputs = [sys.stdin.fileno(), wake]
    kill_at: float | None = None
    while (code := _reap(child.pid)) is None:
        timeout = None if kill_at is None else 0.2
        ready, _, _ = select.select(inputs, [], [], timeout)
        stop = wake in ready and bool(_STOP_SIGNALS & set(os.read(wake, 512)))
        if inputs[0] != wake and inputs[0] in ready and not os.read(inputs[0], 512):
            inputs.pop(0)
            stop = True
        if stop and kill_at is None:
            kill_at = time.monotonic() + grace
            _signal_all(child.pid, signal.SIGTERM)
        if kill_at is not None and time.monotonic() >= kill_at:
            _signal_all(child.pid, signal.SIGKILL)
    _end_leftovers(child.pid, grace)
    return code


def _end_leftovers(child: int, grace: float) -> None:
    """End what the command left running, such as ranks whose launcher died. Gives up 5 s after SIGKILL."""
    kill_at = time.monotonic() + grace / 3
    _signal_all(child, signal.SIGTERM)
    while descendants() and time.monotonic() < kill_at + 5:
        if time.monotonic() >= kill_at:
            _signal_all(child, signal.SIGKILL)
        _reap(child)
        time.sleep(0.05)


def _reap(child: int) -> int | None:
    """Reap every process that ended, adopted ones included. Returns the command's exit code if it is among them."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
    return 128 - code if code is not None and code < 0 else code


def _signal_all(child: int, number: signal.Signals) -> None:
    """Send it to all below, and let those that are stopped act on it."""
    for each in (number, signal.SIGCONT):
        for pid in descendants():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, each)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, each)


def descendants() -> list[int]:
    """The ids of every living process below this one, from /proc; empty on systems without it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid, rest = stat.read_text(errors="replace").split(" ", 1)
            state, parent = rest.rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(pid))
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _prepare_command(guard: int) -> None:
    """Runs in the command's process, before it becomes the command."""
    os.environ[_LAUNCHER_VARIABLE] = str(os.getpid())
    _die_with_parent(guard)


def _die_with_parent(parent: int) -> None:
    """End this process with SIGKILL when its parent ends, and at once if it already has."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    if _LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(run(sys.argv[3:], grace=float(sys.argv[2]), bot=int(sys.argv[1])))
