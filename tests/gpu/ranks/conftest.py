"""Groups of 1, 2, 4 and 8 ranks that run at the same time, and worlds that compute beside them.

All groups serve the same small model in fp32, so they must agree, and they leave memory for other tests. The first test
starts all worlds and groups that fit beside it; each test then waits for its own. Those that no test of this run needs
are not started, and those that still compute at the end of the run are killed.
"""

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.engine.distributed.shapes import Replies, replies_of, write_shapes
from tests.engine.distributed.world import World, free_port
from tests.engine.server.process import EngineProcess
from tests.engine.tiny import write_checkpoint
from tests.gpu import machine
from tests.gpu.ranks.groups import (
    DEVICE,
    FAULT_SIZES,
    KILLS,
    LAYERS,
    LIMITS,
    REPLY_LENGTH,
    SHAPES_BY_PART,
    SIZES,
    SMALL,
    Said,
    ask_dialogs,
)
from tests.gpu.replies import greedy_replies


def is_needed(request: pytest.FixtureRequest, *fixtures: str) -> bool:
    """Whether a test of this run asks for one of these fixtures."""
    asked = {name for item in request.session.items if isinstance(item, pytest.Function) for name in item.fixturenames}
    return not asked.isdisjoint(fixtures)


@pytest.fixture(scope="session")
def background() -> Iterator[ThreadPoolExecutor]:
    """Threads that only wait for processes, which are killed at the end: after a failure no test needs the results."""
    threads = ThreadPoolExecutor(32)
    yield threads
    threads.shutdown(wait=False, cancel_futures=True)
    machine.kill_running()
    for world in list(World.running):
        world.kill()
    threads.shutdown()


@pytest.fixture(scope="session")
def checkpoints(request: pytest.FixtureRequest) -> Iterator[dict[str, machine.WrittenCheckpoint]]:
    """Checkpoints by shape. The large ones are written while tests use the small one, if a test needs them."""
    folder = Path(tempfile.mkdtemp(prefix="guildllama-ranks-"))
    written = {"small": machine.write_checkpoint(folder / "small", "small")}
    assert written["small"].folder
    if is_needed(request, "logits"):
        written["7b"] = machine.write_checkpoint(folder / "7b", "7b")
    if is_needed(request, "answers"):
        written["70b"] = machine.write_checkpoint(folder / "70b", "70b", layers=LAYERS)
    yield written
    for each in written.values():
        each.delete()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def memory_before() -> list[int]:
    return machine.gpu_memory()


@pytest.fixture(scope="session")
def groups(
    memory_before: list[int],
    checkpoints: dict[str, machine.WrittenCheckpoint],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[int, EngineProcess]]:
    """A server for each world size. torchrun restarts those of several ranks when a rank dies."""
    logs = tmp_path_factory.mktemp("groups")
    with ExitStack() as stack:
        started = {}
        for size in SIZES:
            port, model = str(free_port()), str(checkpoints["small"].folder)
            flags = ("--model", model, "--port", port, "--dtype", "float32")
            ranks = {"ranks": size, "restarts": KILLS} if size > 1 else {}
            started[size] = stack.enter_context(EngineProcess(*flags, *DEVICE, *LIMITS, log=logs / str(size), **ranks))
        yield started


@pytest.fixture(scope="session")
def replies(groups: dict[int, EngineProcess], background: ThreadPoolExecutor) -> dict[int, list[str]]:
    """Every group's greedy replies, before any rank is killed."""
    urls = [group.ready().url for group in groups.values()]
    return dict(zip(groups, background.map(greedy_replies, urls), strict=True))


@pytest.fixture(scope="session")
def uneven_worlds(
    tmp_path_factory: pytest.TempPathFactory, background: ThreadPoolExecutor
) -> dict[tuple[int, int], Future[Replies]]:
    """Replies by world size and part of the uneven shapes. A world computes its part's shapes one after the other."""
    folders = [tmp_path_factory.mktemp("shapes") for _ in SHAPES_BY_PART]
    models = [write_shapes(folder, names) for folder, names in zip(folders, SHAPES_BY_PART, strict=True)]

    def compute(size: int, part: int) -> Replies:
        return replies_of(size, models[part], REPLY_LENGTH, folders[part], device=machine.DEVICE, config=SMALL)

    jobs = [(size, part) for size in SIZES for part in range(len(models))]
    return {job: background.submit(compute, *job) for job in jobs}


@pytest.fixture(scope="session")
def host_tier_worlds(
    tmp_path_factory: pytest.TempPathFactory, background: ThreadPoolExecutor
) -> dict[int, Future[Said]]:
    """Results by world size, of dialogs for which worlds of several ranks have too few pages."""
    model = write_checkpoint(tmp_path_factory.mktemp("model"), dim=256, heads=8, kv_heads=4, spread=0.08)
    return {size: background.submit(ask_dialogs, size, model) for size in (1, *FAULT_SIZES)}
