"""SIGTERM ends groups of ranks under load, and leaves neither processes nor GPU memory behind.

Nothing else may use the GPUs meanwhile, so it is the last file of this folder by name.
"""

import time
from concurrent.futures import ThreadPoolExecutor

from tests.engine.server.process import EngineProcess, alive, children
from tests.gpu import machine
from tests.gpu.load import Load
from tests.gpu.ranks.groups import CLIENTS

MOST_SECONDS = 20.0 if machine.REHEARSAL else 8.0  # a group alone takes about 4


def test_sigterm_leaves_nothing_behind(
    groups: dict[int, EngineProcess], memory_before: list[int], background: ThreadPoolExecutor
) -> None:
    """All groups get SIGTERM at the same time."""
    for group in groups.values():
        group.ready()
    processes = [pid for group in groups.values() for pid in (group.process.pid, *children(group.process.pid))]
    during = machine.gpu_memory()
    seconds = dict(zip(groups, background.map(terminate, groups.values()), strict=True))
    assert not any(alive(pid) for pid in processes)
    after = machine.memory_returns_to(memory_before, 5.0)
    machine.report(
        "SIGTERM under load", gone_s_by_world_size=seconds,
        gpu_mib={"before": memory_before, "at": during, "after": after},
    )  # fmt: skip
    assert max(seconds.values()) < MOST_SECONDS
    assert all(now <= before + 16 for now, before in zip(after, memory_before, strict=True))


def terminate(group: EngineProcess) -> float:
    """Send SIGTERM under load; returns the seconds until the group has ended."""
    with Load(group.url, CLIENTS) as load:
        start = time.monotonic()
        seconds = group.terminate()
        load.failed_after(start, 10.0)
    return round(seconds, 2)
