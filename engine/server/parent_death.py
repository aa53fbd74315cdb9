"""Ends a rank when the process that started it is gone, however that ended.

Two ways. Under the bot's guard the kernel does it: the rank asks for SIGKILL at its parent's death, which also ends a
rank that is stopped. Under any other launcher a thread of the rank watches for a new parent, so that rank 0 can still
finish its replies; a stopped rank then outlives its launcher until it is continued. On other systems than Linux there
is only the second way.

Imports nothing heavy: `die_with_launcher` should run as soon as the process does.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

LAUNCHER_VARIABLE = "ENGINE_LAUNCHER_PID"
"""Set by the bot's guard (bot/engine_process/guard.py): the process that it started, a launcher or the only rank."""
PARENT_POLL_INTERVAL = 1.0  # seconds
PARENT_GRACE = 8.0  # seconds for an orderly shutdown once the launcher is gone

_PR_SET_PDEATHSIG = 1


def die_with_launcher() -> None:
    """Let the kernel kill this process at its parent's death, if the bot's guard wants that of its ranks."""
    launcher = os.environ.get(LAUNCHER_VARIABLE, "")
    if not launcher.isdecimal() or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if int(launcher) not in {os.getpid(), os.getppid()}:  # it ended before we asked, and another parent has us
        os.write(2, b"engine: the launcher is gone\n")
        os._exit(1)


def watch_parent(say: Callable[[str], None], *, graceful: bool) -> None:
    """End this process from a thread once its parent is another one; `graceful` tries SIGTERM first."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_INTERVAL)
        say("the launcher is gone: shutting down")
        if graceful:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PARENT_GRACE)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
