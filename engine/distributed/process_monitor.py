"""Notices at once that another process of this machine has ended, for whatever reason.

A rank that waits for its GPU or inside a collective does not see that a peer has ended; the monitor's thread does. It
knows process ids, but neither ranks nor GPUs. It needs Linux's pidfd; elsewhere only the timeouts find a lost process.
"""

import os
import select
import threading
from collections.abc import Callable, Sequence


def watch_processes(pids: Sequence[int], on_end: Callable[[int], None]) -> None:
    """Call `on_end` once, from a thread of its own, with the first of these process ids that ends."""
    if not hasattr(os, "pidfd_open"):
        return
    threading.Thread(target=_watch, args=(pids, on_end), name="process-monitor", daemon=True).start()


def _watch(pids: Sequence[int], on_end: Callable[[int], None]) -> None:
    poll, watched = select.poll(), {}
    try:
        for pid in pids:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                return on_end(pid)
            except OSError:  # a sandbox without this system call
                return None
            watched[descriptor] = pid
            poll.register(descriptor, select.POLLIN)
        ready = poll.poll()
    finally:
        for descriptor in watched:
            os.close(descriptor)
    return on_end(watched[ready[0][0]])
