"""Failpoints: named places at which a test can kill this process, as a power cut would.

GUILDLLAMA_CRASH_AT names one failpoint, or one with a count (`after_finish:3` kills at the third pass). If it is not
set, a failpoint costs one dictionary look-up.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

_passes: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Kill this process with SIGKILL if GUILDLLAMA_CRASH_AT names this failpoint."""
    target = os.environ.get("GUILDLLAMA_CRASH_AT")
    if not target:
        return
    point, _, count = target.partition(":")
    if point == name:
        _passes[name] += 1
        if _passes[name] >= int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
