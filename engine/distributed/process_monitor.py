"""Notices at once that another process of this machine has ended, however it ended.

A rank that waits for its GPU, or inside a collective, hears nothing of a peer's end: this does. It knows process ids,
and neither ranks nor GPUs. Where the system has no such notice (only Linux has), others find out by their timeouts.
"""

import os
import select
import threading
from collections.abc import Callable, Sequence


def watch_processes(pids: Sequence[int], ended: Callable[[int], None]) -> None:
    """Calls `ended` once, from a thread of its own, with the first of these process ids that is no more."""
    if not hasattr(os, "pidfd_open"):
        return
    threading.Thread(target=_watch, args=(pids, ended), name="vigil", daemon=True).start()


def _watch(pids: Sequence[int], ended: Callable[[int], None]) -> None:
    poll, watched = select.poll(), {}
    try:
        for pid in pids:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                return ended(pid)
            except OSError:  # a sandbox without this call
                return None
            watched[descriptor] = pid
            poll.register(descriptor, select.POLLIN)
        found = poll.poll()
    finally:
        for descriptor in watched:
            os.close(descriptor)
    return ended(watched[found[0][0]])
