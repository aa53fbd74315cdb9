"""Weights that are read on a thread are those of a load at once; a mistake is reported, and a load can be ended."""

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.checkpoint import Checkpoint, ModelSpec, open_checkpoint
from engine.config import resolve
from engine.errors import ConfigError
from engine.load_progress import LoadProgress
from engine.model.background_loading import BackgroundLoading
from engine.model.loader import load_model
from engine.tokenizers.base import Tokenizer
from tests.engine.tiny import write_checkpoint

LAYERS = 6


class Gated(Checkpoint):
    """A checkpoint that reads the second layer only when it may, and notes the layers that it was asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.at_the_gate, self.gate = threading.Event(), threading.Event()
        self.layers: set[str] = set()

    @property
    def path(self) -> Path:
        return self._checkpoint.path

    @property
    def spec(self) -> ModelSpec:
        return self._checkpoint.spec

    def tokenizer(self) -> Tokenizer:
        return self._checkpoint.tokenizer()

    def close(self) -> None:
        self._checkpoint.close()

    def copy_into(self, name: str, out: Tensor, *, dim: int | None = None, start: int = 0) -> None:
        if name.startswith("layers."):
            self.layers.add(name.split(".")[1])
        if name.startswith("layers.1."):
            self.at_the_gate.set()
            assert self.gate.wait(30)
        self._checkpoint.copy_into(name, out, dim=dim, start=start)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(write_checkpoint(tmp_path, dim=64, heads=4, kv_heads=2, layers=LAYERS))


@pytest.mark.parametrize("rank", [0, 1])
def test_the_weights_are_those_of_a_load_at_once(
    checkpoint: Checkpoint, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    config, progress = resolve(checkpoint.spec, device="cpu", quantize="none", max_context=64), LoadProgress()
    loading = BackgroundLoading(config, checkpoint, progress)
    loading.wait()
    expected = load_model(config, checkpoint)
    found = dict(loading.model.named_parameters())
    assert found.keys() == dict(expected.named_parameters()).keys()
    for name, parameter in expected.named_parameters():
        assert torch.equal(found[name], parameter), name
    assert str(progress.state) == "reading weights, 100 %"


def test_a_tied_output_shares_the_memory_of_the_embeddings() -> None:
    checkpoint = open_checkpoint("smollm2")
    loading = BackgroundLoading(resolve(checkpoint.spec, device="cpu", quantize="none", max_context=64), checkpoint)
    loading.wait()
    model = loading.model
    assert model.output.weight.data_ptr() == model.tok_embeddings.weight.data_ptr()
    assert model.output.weight.any()


def test_the_addresses_stay_and_the_weights_come_later(checkpoint: Checkpoint) -> None:
    gated = Gated(checkpoint)
    config = resolve(checkpoint.spec, device="cpu", quantize="none", max_context=64)
    loading = BackgroundLoading(config, gated)
    before = {name: parameter.data_ptr() for name, parameter in loading.model.named_parameters()}
    assert gated.at_the_gate.wait(30)
    assert not loading.model.blocks[-1].wo.weight.any()
    gated.gate.set()
    loading.wait()
    assert loading.model.blocks[-1].wo.weight.any()
    assert before == {name: parameter.data_ptr() for name, parameter in loading.model.named_parameters()}


def test_a_load_that_is_closed_ends_after_its_layer(checkpoint: Checkpoint) -> None:
    gated = Gated(checkpoint)
    config = resolve(checkpoint.spec, device="cpu", quantize="none", max_context=64)
    loading = BackgroundLoading(config, gated)
    assert gated.at_the_gate.wait(30)
    cancelling = threading.Thread(target=loading.close)
    cancelling.start()
    while not loading._cancelled.is_set():
        pass
    gated.gate.set()
    cancelling.join(30)
    assert not cancelling.is_alive()
    assert gated.layers == {"0", "1"}


def test_weights_that_are_not_finite_are_reported(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, dim=64, heads=4, kv_heads=2, layers=LAYERS)
    file = folder / "consolidated.00.pth"
    weights = torch.load(file)
    weights["layers.3.attention.wq.weight"][1, 2] = float("nan")
    torch.save(weights, file)
    checkpoint = open_checkpoint(folder)
    loading = BackgroundLoading(resolve(checkpoint.spec, device="cpu", quantize="none", max_context=64), checkpoint)
    with pytest.raises(ConfigError, match=r"NaN or infinity in layers\.3"):
        loading.wait()
    loading.close()
