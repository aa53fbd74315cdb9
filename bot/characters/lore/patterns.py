"""Regular expressions in the keys of a lorebook, in an engine whose time grows with the text and not with tricks.

RE2 has no backtracking. What it does not know (look-around, back references) matches nothing, as the specification
wants of a wrong pattern. The memory of a pattern, its length, and the work for one message are bounded.
"""

from __future__ import annotations

import re
import time

import re2

MAX_PATTERN_CHARS = 1000
MAX_WORK = 8_000_000
"""Instructions times bytes of one search: 50 ms at the very worst, and most take a thousandth."""
MAX_SECONDS = 0.05
"""Of the processor, for all patterns of one message together."""
_MAX_MEMORY = 256 << 10
_DELIMITED = re.compile(r"/(.*)/([a-z]{0,8})\Z", re.DOTALL)


class PatternScan:
    """The patterns of one message."""

    def __init__(self) -> None:
        self._seconds = MAX_SECONDS

    def is_in(self, key: str, text: bytes, *, case_sensitive: bool) -> bool:
        """Whether this pattern, `/…/i` or without the strokes, is in the text. False once the time is used up."""
        if self._seconds <= 0:
            return False
        started = time.thread_time()
        pattern = compiled(key, case_sensitive=case_sensitive)
        is_affordable = pattern is not None and pattern.programsize * len(text) <= MAX_WORK
        found = pattern is not None and is_affordable and pattern.search(text) is not None
        self._seconds -= time.thread_time() - started
        return found


def is_usable(key: str) -> bool:
    """Whether this key is a pattern that can be searched for."""
    return compiled(key, case_sensitive=False) is not None


def compiled(key: str, *, case_sensitive: bool) -> re2._Regexp | None:
    """The pattern in the engine's form, or None."""
    if len(key) > MAX_PATTERN_CHARS:
        return None
    delimited = _DELIMITED.match(key)
    source, flags = (delimited[1], delimited[2]) if delimited else (key, "" if case_sensitive else "i")
    inline = "".join(flag for flag in "ims" if flag in flags)
    options = re2.Options()
    options.max_mem = _MAX_MEMORY
    options.log_errors = False
    options.never_capture = True
    try:
        return re2.compile((f"(?{inline})" if inline else "") + source.replace(r"\/", "/"), options)
    except (re2.error, UnicodeEncodeError):
        return None
