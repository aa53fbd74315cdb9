"""Whose processor time a benchmark used: groups of processes, and the rest of the machine. Linux only."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_SECONDS = 0.5


def seconds_of(pid: int) -> float | None:
    """Processor seconds of a process so far; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return sum(map(int, fields[11:13])) / _TICKS


def children_of(pid: int) -> list[int]:
    """Its child processes now."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def machine_seconds() -> float:
    """Processor seconds of all processes of this machine since its start."""
    user, nice, system, _idle, _wait, irq, soft, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + soft + steal) / _TICKS


class ProcessorTime:
    """Looks twice a second, since a process that has ended cannot be asked."""

    def __init__(self, groups: dict[str, Callable[[], Iterable[int]]]) -> None:
        """`groups`: the processes of each group now."""
        self._groups = groups
        self._seen: dict[tuple[str, int], tuple[float, float]] = {}
        """For each process its seconds at the first look and at the last one."""
        self._machine = machine_seconds()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_SECONDS)

    def start(self) -> None:
        """Count from now on."""
        self._seen = {each: (seconds, seconds) for each, seconds in self._now()}
        self._machine = machine_seconds()

    def look(self) -> None:
        """Look once. A process that was not there at the start counts from its own start."""
        for each, seconds in self._now():
            self._seen[each] = (self._seen.get(each, (0.0, 0.0))[0], seconds)

    def _now(self) -> list[tuple[tuple[str, int], float]]:
        found = [((group, pid), seconds_of(pid)) for group, pids in self._groups.items() for pid in pids()]
        return [(each, seconds) for each, seconds in found if seconds is not None]

    def used(self) -> dict[str, float]:
        """Processor seconds of each group since `start`, and of everything else on this machine."""
        self.look()
        found = {
            group: sum(last - first for (of, _), (first, last) in self._seen.items() if of == group)
            for group in self._groups
        }
        return {**found, "other": machine_seconds() - self._machine - sum(found.values())}
