"""Ranks that die, hang, or are idle for a long time."""

import signal
import time
from pathlib import Path

import pytest
import torch

from engine.checkpoint import open_checkpoint
from engine.config import EngineConfig, resolve
from engine.distributed import communicator
from engine.distributed.wire import NOP, STOP, RankCommand
from engine.errors import ConfigError
from tests.engine.distributed.world import World
from tests.engine.tiny import write_checkpoint

LONG = 200  # output tokens: the reply is still running when something happens to a rank


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("model"), heads=4, kv_heads=2))


@pytest.mark.parametrize(("size", "heartbeat"), [(2, 0.5), (2, 0.0), pytest.param(4, 0.5, marks=pytest.mark.long)])
def test_fault_24_an_idle_night_needs_the_heartbeat(model: str, size: int, heartbeat: float) -> None:
    """After three timeouts of silence a request is answered if there is a heartbeat, and only then."""
    timing = {"heartbeat": heartbeat, "group_timeout": 2.0, "step_timeout": 4.0}
    with World(size, "serve", model=model, silence=6.5, config=timing) as world:
        world.wait_for("ready")
        if heartbeat:
            world.wait_for("reply")
            assert world.codes() == [0] * size, world.said
            assert "closed None" in world.said[0]
        else:
            assert world.codes(30) == [1, 1]
            assert not any("reply" in line for line in world.said[0])


@pytest.mark.parametrize(
    ("size", "victim"), [(2, 1), *(pytest.param(4, victim, marks=pytest.mark.long) for victim in (1, 3))]
)
def test_a_killed_rank_fails_the_reply_and_ends_the_group(model: str, size: int, victim: int) -> None:
    with World(size, "serve", model=model, length=LONG) as world:
        world.wait_for("tokens 3")
        world.signal(victim, signal.SIGKILL)
        killed = time.monotonic()
        assert "The engine failed while it was writing this reply." in world.wait_for("failed", 10)
        for other in {*range(size)} - {victim}:  # rank 0 kills the others, which may end by themselves before
            assert world.code(other, 10 - (time.monotonic() - killed)) in ((1,) if other == 0 else (1, -signal.SIGKILL))


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.long)])
def test_fault_25_a_hung_rank_is_noticed_and_killed(model: str, size: int) -> None:
    with World(size, "serve", model=model, length=LONG, config={"step_timeout": 3.0}) as world:
        world.wait_for("tokens 3")
        world.signal(size - 1, signal.SIGSTOP)
        world.wait_for("failed", 10)
        codes = world.codes(10)
        assert (codes[0], codes[-1]) == (1, -signal.SIGKILL)


def test_an_idle_group_notices_a_hung_rank(model: str) -> None:
    timing = {"heartbeat": 0.5, "step_timeout": 2.0}
    with World(2, "serve", model=model, silence=30.0, config=timing) as world:
        world.wait_for("ready")
        world.signal(1, signal.SIGSTOP)
        assert world.codes(10) == [1, -signal.SIGKILL]


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.long)])
def test_the_other_ranks_end_when_rank_0_is_killed(model: str, size: int) -> None:
    with World(size, "serve", model=model, length=LONG) as world:
        world.wait_for("tokens 3")
        world.signal(0, signal.SIGKILL)
        assert [world.code(rank, 10) for rank in range(1, size)] == [1] * (size - 1)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_waits_for_its_device_notices_that_another_one_has_ended(model: str, victim: int) -> None:
    """Long before the step counts as hung."""
    with World(2, "serve", model=model, length=LONG, stuck_rank=1 - victim, config={"step_timeout": 60.0}) as world:
        deadline = time.monotonic() + 60
        while "stuck" not in world.said[1 - victim]:
            assert time.monotonic() < deadline, world.said
            time.sleep(0.05)
        world.signal(victim, signal.SIGKILL)
        if victim == 1:
            world.wait_for("failed", 2)
        assert world.code(1 - victim, 5) == 1
    assert any(f"rank {victim} has ended" in line for line in world.said[1 - victim])


def test_ranks_above_0_ignore_stop_signals(model: str) -> None:
    with World(2, "serve", model=model, length=LONG) as world:
        world.wait_for("tokens 3")
        world.signal(1, signal.SIGTERM)
        world.signal(1, signal.SIGINT)
        world.wait_for("reply")
        assert world.codes() == [0, 0], world.said


def test_a_mistake_that_only_one_rank_can_see_stops_all(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    state = torch.load(folder / "consolidated.00.pth", weights_only=True)
    state["output.weight"][-1, 3] = float("nan")  # in the rows of the last rank
    torch.save(state, folder / "consolidated.00.pth")
    with World(2, "serve", model=str(folder)) as world:
        assert world.codes() == [78, 78], world.said
    assert "another rank could not" in world.said[0][-1]
    assert "NaN or infinity in output.weight" in world.said[1][-1]


def test_fault_26_a_failing_step_of_one_rank_ends_all(model: str) -> None:
    with World(2, "serve", model=model, length=LONG, config={"max_num_seqs": 1}, break_rank=1) as world:
        world.wait_for("failed", 30)
        assert world.codes(15) == [1, 1]
    assert any("OutOfMemoryError" in line for line in world.said[1])


def test_no_object_is_pickled_on_any_wire() -> None:
    source = "".join(file.read_text() for file in Path(communicator.__file__).parent.glob("**/*.py"))
    assert "dist.broadcast(" in source
    for name in ("object_list", "gather_object", "dist.rpc", "multiprocessing"):
        assert name not in source


def test_one_rank_has_no_process_group(tmp_path: Path) -> None:
    config = EngineConfig(torch.device("cpu"), torch.float32, max_num_seqs=1, max_context=16, max_prefill_tokens=16)
    single = communicator.connect(config)
    single.broadcast_command(RankCommand(NOP))
    assert (single.all_reduce_min(3), single.all_gather(5)) == (3, (5,))
    assert not torch.distributed.is_initialized()
    single.broadcast_command(RankCommand(STOP))
    single.close()


@pytest.mark.parametrize("rank", [0, 1])
def test_every_rank_sees_that_there_are_too_few_gpus(model: str, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    spec = open_checkpoint(model).spec
    with pytest.raises(ConfigError, match="--nproc-per-node: expected at most 1, one rank for each GPU; found 2"):
        resolve(spec)
    assert resolve(spec, share_gpu=True).device == torch.device("cuda", 0)
    assert resolve(spec, device="cpu").world_size == 2
