"""Groups whose ranks are killed in turn under load, and groups that are idle for a long time."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from tests.engine.distributed.world import World
from tests.engine.server.process import EngineProcess
from tests.gpu import machine
from tests.gpu.load import Load
from tests.gpu.ranks.conftest import is_needed
from tests.gpu.ranks.groups import CLIENTS, FAULT_SIZES, KILLS, victims
from tests.gpu.replies import greedy_replies

IDLE = {
    "silence": 12.5,
    "config": {"heartbeat": 1.0, "group_timeout": 4.0, "step_timeout": 6.0, "max_num_seqs": 4, "num_kv_pages": 256},
}
Seconds = list[float]


@pytest.fixture(scope="module")
def idle_worlds(checkpoints: dict[str, machine.WrittenCheckpoint]) -> Iterator[dict[int, World]]:
    """Worlds without requests for three group timeouts, while groups are under load."""
    with ExitStack() as stack:
        model = str(checkpoints["small"].folder)
        yield {
            size: stack.enter_context(World(size, "serve", model=model, device=machine.DEVICE, **IDLE))
            for size in FAULT_SIZES
        }


@pytest.fixture(scope="module")
def killed(
    request: pytest.FixtureRequest,
    replies: dict[int, list[str]],
    groups: dict[int, EngineProcess],
    background: ThreadPoolExecutor,
) -> dict[int, Future[tuple[Seconds, Seconds]]]:
    """Ranks of all groups are killed at the same time. The worlds of other tests start first, beside the groups."""
    for worlds in ("uneven_worlds", "host_tier_worlds", "idle_worlds"):
        if is_needed(request, worlds):
            request.getfixturevalue(worlds)
    return {size: background.submit(kill_ranks, size, groups[size], replies[size]) for size in FAULT_SIZES}


def kill_ranks(size: int, group: EngineProcess, expected: list[str]) -> tuple[Seconds, Seconds]:
    """Kill ranks in turn; for each, seconds until the last client had its error, and until the group was ready."""
    told, back = [], []
    for number, victim in enumerate(victims(size), 1):
        with Load(group.url, CLIENTS) as load:
            start = time.monotonic()
            os.kill(group.rank(victim), signal.SIGKILL)
            told.append(round(max(load.failed_after(start, 10.0)), 2))
        group.ready(number + 1)
        back.append(round(time.monotonic() - start, 1))
        assert greedy_replies(group.url) == expected
    with httpx.Client(base_url=group.url, timeout=10) as http:
        assert f"guildllama_engine_restarts_total {KILLS}.0" in http.get("/metrics").text
    return told, back


@pytest.mark.parametrize("size", FAULT_SIZES)
def test_killed_ranks_under_load(size: int, killed: dict[int, Future[tuple[Seconds, Seconds]]]) -> None:
    told, back = killed[size].result()
    machine.report(
        "kill -9 of ranks in turn", world_size=size, ranks=victims(size), clients=CLIENTS, last_client_told_s=told,
        group_back_s=back,
    )  # fmt: skip


@pytest.mark.parametrize("size", FAULT_SIZES)
def test_an_idle_group(size: int, idle_worlds: dict[int, World]) -> None:
    """No request for three group timeouts, then a reply."""
    world = idle_worlds[size]
    world.wait_for("ready", 120)
    world.wait_for("reply", 60)
    assert world.codes(20) == [0] * size, world.said
    assert "closed None" in world.said[0]
    machine.report("an idle night", world_size=size, silence_s=IDLE["silence"], group_timeout_s=4.0, answered=True)
