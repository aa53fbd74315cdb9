"""Whose processor time a benchmark used: groups of processes, and the rest of the machine. Linux only."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_SECONDS = 0.5


@dataclass(frozen=True)
class Spent:
    """Seconds of one process so far, or of a group between two looks."""

    used: float
    """Of a core, by all its threads."""
    waited: float
    """In which its main thread could have run and had no core."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.used + other.used, self.waited + other.waited)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.used - other.used, self.waited - other.waited)


NOTHING = Spent(0.0, 0.0)


def spent_by(pid: int) -> Spent | None:
    """What a process has spent so far; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        waited = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return None
    return Spent(sum(map(int, fields[11:13])) / _TICKS, waited)


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
        self._seen: dict[tuple[str, int], tuple[Spent, Spent]] = {}
        """For each process what it had spent at the first look and at the last one."""
        self._machine = machine_seconds()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_SECONDS)

    def start(self) -> None:
        """Count from now on."""
        self._seen = {each: (spent, spent) for each, spent in self._now()}
        self._machine = machine_seconds()

    def look(self) -> None:
        """Look once. A process that was not there at the start counts from its own start."""
        for each, spent in self._now():
            self._seen[each] = (self._seen.get(each, (NOTHING, NOTHING))[0], spent)

    def _now(self) -> list[tuple[tuple[str, int], Spent]]:
        found = [((group, pid), spent_by(pid)) for group, pids in self._groups.items() for pid in pids()]
        return [(each, spent) for each, spent in found if spent is not None]

    def spent(self) -> dict[str, Spent]:
        """What each group has spent since `start`, and what everything else on this machine has used."""
        self.look()
        found = {
            group: sum((last - first for (of, _), (first, last) in self._seen.items() if of == group), NOTHING)
            for group in self._groups
        }
        used = sum(each.used for each in found.values())
        return {**found, "other": Spent(machine_seconds() - self._machine - used, 0.0)}
