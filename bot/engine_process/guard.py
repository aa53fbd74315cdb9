"""Runs one command and makes sure that nothing of it outlives the process that wanted it.

    python -m bot.guard SECONDS COMMAND...

Stands between the bot and the engine. Its standard input is a pipe that the bot holds open: when that ends, because the
bot closed it or died in whatever way, everything that the command has started gets SIGTERM and, SECONDS later,
SIGKILL. torchrun gives each rank a session of its own, so a process group is not enough; on Linux the guard adopts
orphans and finds them all. It exits as the command did. Uses the standard library alone, to be small and quick.
"""

from __future__ import annotations

import contextlib
import ctypes
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


def run(command: Sequence[str], grace: float) -> int:
    """Run the command to its end, or to the end of standard input."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    wake, waker = os.pipe()
    for end in (wake, waker):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (*_STOP_SIGNALS, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    child = subprocess.Popen(  # noqa: S603  # the bot's own command line
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
    )
    watched = [sys.stdin.fileno(), wake]
    kill_at: float | None = None
    while (code := _reap(child.pid)) is None:
        timeout = None if kill_at is None else 0.2
        ready, _, _ = select.select(watched, [], [], timeout)
        stop = wake in ready and bool(_STOP_SIGNALS & set(os.read(wake, 512)))
        if watched[0] != wake and watched[0] in ready and not os.read(watched[0], 512):
            watched.pop(0)
            stop = True
        if stop and kill_at is None:
            kill_at = time.monotonic() + grace
            _signal_all(child.pid, signal.SIGTERM)
        if kill_at is not None and time.monotonic() >= kill_at:
            _signal_all(child.pid, signal.SIGKILL)
    _clear_up(child.pid, grace)
    return code


def _clear_up(child: int, grace: float) -> None:
    """What the command left behind: a rank without its launcher is of no use to anybody."""
    patience = time.monotonic() + grace / 3
    _signal_all(child, signal.SIGTERM)
    while _descendants() and time.monotonic() < patience + 5:
        if time.monotonic() >= patience:
            _signal_all(child, signal.SIGKILL)
        _reap(child)
        time.sleep(0.05)


def _reap(child: int) -> int | None:
    """Bury whoever has died, adopted ones too. The command's exit code once it is among them."""
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
    for pid in _descendants():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, number)


def _descendants() -> list[int]:
    """Every living process below this one, by /proc; none where there is no such thing."""
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


def _prctl(option: int, value: int) -> None:
    if _LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(run(sys.argv[2:], float(sys.argv[1])))
