"""Which shards a process is to have: the numbers in `GUILDLLAMA_SHARDS`. Knows no other process."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FORM = re.compile(r"(?:(?P<any>auto)|(?P<first>\d{1,5})(?:-(?P<last>\d{1,5}))?)/(?P<count>\d{1,5})")
_MAX_COUNT = 10_000


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """`ids` of `count` shards; None: a fair share of them, by lease."""

    count: int
    ids: tuple[int, ...] | None


def parse_shards(text: str) -> ShardPlan:
    """The plan that is written as 0-3/16, 5/16 or auto/16. Raises ValueError."""
    found = _FORM.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError("must be like 0-3/16 (shards 0 to 3 of 16), 5/16 or auto/16 (a share, by lease)")
    count = int(found["count"])
    if not 1 <= count <= _MAX_COUNT:
        raise ValueError(f"must have 1 to {_MAX_COUNT} shards")
    if found["any"]:
        return ShardPlan(count, None)
    first = int(found["first"])
    last = int(found["last"] or first)
    if last < first or last >= count:
        raise ValueError(f"must name shards from 0 to {count - 1}, the lower one first")
    return ShardPlan(count, tuple(range(first, last + 1)))
