"""While a model loads, another thread reads how far it is: up to all of its bytes, with and without quantization."""

import threading

import pytest

from engine.checkpoint import Checkpoint, open_checkpoint
from engine.config import resolve
from engine.core.engine_core import EngineCore
from engine.core.worker import load_weights
from engine.load_progress import PREPARING, READING, RECORDING, LoadProgress, LoadStage
from tests.engine.tiny import write_checkpoint


class Counted(LoadProgress):
    """Keeps what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[tuple[str, int]] = []
        self.advanced: list[int] = []
        self._counting = threading.Lock()

    def begin(self, name: str, total: int = 0) -> LoadStage:
        self.stages.append((name, total))
        stage = CountedStage(name, total, self)
        self._stages += (stage,)
        return stage

    def count(self, count: int) -> None:
        with self._counting:
            self.advanced.append(count)


class CountedStage(LoadStage):
    def __init__(self, name: str, total: int, progress: Counted) -> None:
        super().__init__(name, total)
        self._progress = progress

    def advance(self, count: int = 1) -> None:
        super().advance(count)
        self._progress.count(count)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_checkpoint(tmp_path_factory.mktemp("model"), dim=64, heads=4, kv_heads=2))


@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_all_bytes_are_counted(
    checkpoint: Checkpoint, quantize: str, world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if world_size == 2:
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
    config, progress = resolve(checkpoint.spec, device="cpu", quantize=quantize, max_context=64), Counted()
    load_weights(config, checkpoint, progress)
    (stage, total), *others = progress.stages
    assert (stage, others) == (READING, [])
    assert sum(progress.advanced) == total
    assert len(progress.advanced) > 10
    assert str(progress.state) == "reading weights, 100 %"


def test_a_tied_output_is_counted_once() -> None:
    from engine.checkpoint import open_checkpoint

    checkpoint, progress = open_checkpoint("smollm2"), Counted()
    load_weights(resolve(checkpoint.spec, device="cpu", quantize="none", max_context=64), checkpoint, progress)
    assert sum(progress.advanced) == progress.stages[0][1]


def test_the_engine_says_what_it_does(checkpoint: Checkpoint) -> None:
    progress = Counted()
    engine = EngineCore.start(resolve(checkpoint.spec, device="cpu", max_context=64), checkpoint, progress)
    engine.close()
    assert [stage for stage, _ in progress.stages] == [READING, PREPARING]


def test_nothing_is_said_before_it_begins() -> None:
    assert LoadProgress().state is None


def test_the_first_stage_that_is_not_finished_is_shown() -> None:
    """Weights are read beside other stages."""
    progress = LoadProgress()
    reading = progress.begin(READING, 200)
    progress.begin(PREPARING)
    recording = progress.begin(RECORDING, 4)
    recording.advance()
    reading.advance(150)
    assert str(progress.state) == "reading weights, 75 %"
    reading.advance(50)
    assert str(progress.state) == "recording steps, 25 %"
    recording.advance(3)
    assert str(progress.state) == "recording steps, 100 %"
    progress.begin(PREPARING)
    assert str(progress.state) == PREPARING
