"""Logits and greedy replies equal Meta's reference implementation, on one rank and on several."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from engine.checkpoint import open_checkpoint
from engine.config import resolve
from engine.core.engine_core import EngineCore, SamplingParams
from engine.core.worker import start_worker
from engine.distributed.communicator import SingleRank
from tests.engine.distributed.rank_worker import all_logits
from tests.engine.distributed.world import World
from tests.engine.tiny import GOLDEN, write_checkpoint

FOLDERS = ["llama2-tiny", "llama2-tiny-mp2"]


@dataclasses.dataclass(frozen=True)
class Golden:
    folder: Path
    prompts: list[list[int]]
    replies: list[list[int]]
    logits: list[np.ndarray]

    @classmethod
    def read(cls, name: str) -> "Golden":
        dialogs = json.loads((GOLDEN / name / "golden.json").read_text())["dialogs"]
        with np.load(GOLDEN / name / "logits.npz") as arrays:
            logits = [arrays[f"dialog{n}"] for n in range(len(dialogs))]
        prompts, replies = ([dialog[key] for dialog in dialogs] for key in ("prompt_tokens", "greedy_tokens"))
        return cls(GOLDEN / name, prompts, replies, logits)


def assert_close(got: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> None:
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() < tolerance


@pytest.mark.parametrize("name", FOLDERS)
def test_one_rank_equals_the_reference(name: str) -> None:
    golden = Golden.read(name)
    checkpoint = open_checkpoint(golden.folder)
    config = resolve(checkpoint.spec, device="cpu", max_context=256)
    model = start_worker(config, checkpoint, SingleRank()).model
    assert_close([all_logits(model, prompt).numpy() for prompt in golden.prompts], golden.logits, 1e-3)
    engine = EngineCore.start(config, checkpoint)
    running = [
        engine.submit(prompt, SamplingParams(temperature=0.0, max_tokens=len(reply)))
        for prompt, reply in zip(golden.prompts, golden.replies, strict=True)
    ]
    assert [generation.result(60) for generation in running] == golden.replies
    engine.close()


@pytest.mark.parametrize(
    ("name", "ranks"), [(FOLDERS[0], 2), pytest.param(FOLDERS[1], 2, marks=pytest.mark.long), (FOLDERS[1], 4)]
)
def test_several_ranks_equal_the_reference(name: str, ranks: int, tmp_path: Path) -> None:
    golden = Golden.read(name)
    lengths = [len(reply) for reply in golden.replies]
    out = str(tmp_path / "out")
    arguments = {"model": str(golden.folder), "prompts": golden.prompts, "lengths": lengths, "out": out}
    with World(ranks, "parity", **arguments) as world:
        assert world.codes() == [0] * ranks, world.said
    for rank in range(ranks):
        with np.load(f"{out}.{rank}.npz") as arrays:
            assert_close(list(arrays.values()), golden.logits, 1e-3)
    assert json.loads(Path(f"{out}.json").read_text()) == golden.replies


UNEVEN = {
    "a vocabulary not divisible by three ranks": (3, {"heads": 12, "kv_heads": 6}),
    "a feed-forward width of 128 not divisible by three ranks": (3, {"heads": 6, "kv_heads": 3, "multiple_of": 16}),
    "a feed-forward width of 66, of which the last rank has nothing": (
        4,
        {"dim": 24, "heads": 4, "kv_heads": 4, "multiple_of": 66},
    ),
    "two ranks for each key/value head": (4, {"heads": 12, "kv_heads": 2}),
    "one and a half key/value heads for each rank": (2, {"heads": 6, "kv_heads": 3}),
    "two thirds of a key/value head for each rank": (6, {"heads": 12, "kv_heads": 4}),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if number % 2 else pytest.mark.long)  # half of them in `make test`
        for number, case in enumerate(UNEVEN)
    ],
)
def test_uneven_splits_equal_one_rank(case: str, tmp_path: Path) -> None:
    ranks, shape = UNEVEN[case]
    folder = write_checkpoint(tmp_path / "model", **shape)
    checkpoint = open_checkpoint(folder)
    config = resolve(checkpoint.spec, device="cpu", max_context=256)
    model = start_worker(config, checkpoint, SingleRank()).model
    prompts = [[1, 5, 9, 200, 511, 3], list(range(40, 90))]
    expected = [all_logits(model, prompt).numpy() for prompt in prompts]
    engine = EngineCore.start(config, checkpoint)
    params = SamplingParams(temperature=0.0, max_tokens=12)
    replies = [engine.submit(prompt, params).result(60) for prompt in prompts]
    engine.close()
    out = str(tmp_path / "out")
    with World(ranks, "parity", model=str(folder), prompts=prompts, lengths=[12, 12], out=out) as world:
        assert world.codes() == [0] * ranks, world.said
    for rank in range(ranks):
        with np.load(f"{out}.{rank}.npz") as arrays:
            assert_close(list(arrays.values()), expected, 1e-4)
    assert json.loads(Path(f"{out}.json").read_text()) == replies


def test_a_world_size_that_does_not_divide_the_heads_is_refused_on_every_rank(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", heads=6, kv_heads=3)
    with World(4, "serve", model=str(folder)) as world:
        assert world.codes() == [78] * 4
    for said in world.said:
        assert "expected one of 1, 2, 3, 6 (the model has 6 heads)" in "".join(said)
