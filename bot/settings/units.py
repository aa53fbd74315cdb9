"""Durations and sizes as people write them, `36h` and `256KiB`: for settings and for what admins type."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator

CENTURY = timedelta(days=36_525)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_seconds(value: object) -> object:
    """`90`, `"90s"`, `"15m"`, `"36h"`, `"7d"` or `"2w"` in seconds; other types are left to pydantic.

    Raises ValueError for other text.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw]?)\s*", value.lower())
    if match is None:
        raise ValueError("is not a duration; write seconds, or a number with s, m, h, d or w, such as 36h or 7d")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _parse_timedelta(value: object) -> object:
    seconds = parse_seconds(value)
    if not isinstance(seconds, int | float):
        return seconds
    if not 0 < seconds <= CENTURY.total_seconds():
        raise ValueError("must be above zero and at most a hundred years")
    return timedelta(seconds=seconds)


def parse_size(value: object) -> object:
    """`1048576`, `"256KiB"` or `"8 MB"` in bytes; other types are left to pydantic. Raises ValueError for other text.

    `K` and `M` are units of 1024, with `B`, with `iB` or alone.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+)\s*(?:([km])i?b?|b)?\s*", value.lower())
    if match is None:
        raise ValueError("is not a size; write bytes, or a number with KiB or MiB, such as 256KiB")
    return int(match[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20}[match[2] or ""]


Size = Annotated[int, BeforeValidator(parse_size)]
Seconds = Annotated[float, BeforeValidator(parse_seconds)]
Duration = Annotated[timedelta, BeforeValidator(_parse_timedelta)]
