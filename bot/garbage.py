"""Keeps Python's garbage collector from stopping the event loop.

A full collection looks at every object there is, about 200,000 of them after the imports, and nothing else runs
meanwhile: 130 ms of a core, several times that on a busy machine. What exists once the process has started stays until
it ends, so that the collector need not look at it.
"""

from __future__ import annotations

import gc


def freeze_garbage() -> None:
    """Let later collections leave out all that exists now. It collects once: call it while nobody waits."""
    gc.collect()
    gc.freeze()
