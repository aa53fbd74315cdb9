"""`guildllama run` under a clock that is moved from outside; says what its process holds when it is asked.

    python -m tests.bench.month.clocked_bot CLOCK CENSUS

SIGUSR1: read from the file CLOCK by how many seconds the clock is ahead. SIGUSR2: write to the file CENSUS how many
tasks and objects there are, and of which types most. What the program keeps for 400 days, it keeps for a week here
(CONSTANTS), so that it is deleted within the month, too; nothing else of it is changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import signal
import sys
from collections import Counter
from pathlib import Path

import time_machine

from tests.bench.month.clock import real_time

MOST_TYPES = 100
CONSTANTS = {"USAGE_DAYS": 7, "AUDIT_DAYS": 7}


def census() -> dict[str, object]:
    """What this process holds, without what is only waiting to be collected."""
    gc.collect()
    objects = gc.get_objects()
    types = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in objects)
    found: dict[str, object] = {"objects": len(objects), "types": dict(types.most_common(MOST_TYPES))}
    with contextlib.suppress(RuntimeError):  # the loop does not run yet
        found["tasks"] = len(asyncio.all_tasks())
    return found


def main(clock: Path, census_file: Path) -> None:
    """Run the bot; the signals can come as soon as it is on Discord."""
    traveller = time_machine.travel(real_time() + float(clock.read_text()), tick=True).start()

    def move(number: int, frame: object) -> None:
        traveller.move_to(real_time() + float(clock.read_text()))

    def count(number: int, frame: object) -> None:
        part = census_file.with_suffix(".part")
        part.write_text(json.dumps(census()))
        part.replace(census_file)

    signal.signal(signal.SIGUSR1, move)
    signal.signal(signal.SIGUSR2, count)

    from bot.cli import main as run
    from models.queries.deletion import purge

    for name, value in CONSTANTS.items():
        assert hasattr(purge, name)
        setattr(purge, name, value)

    sys.argv = ["guildllama", "run"]
    run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
