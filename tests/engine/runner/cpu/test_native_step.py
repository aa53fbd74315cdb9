"""A step in compiled code beside its twin in plain torch, and beside itself in other pieces and other company."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.checkpoint import open_checkpoint
from engine.config import EngineConfig, resolve
from engine.core.worker import load_weights
from engine.layers.paged_attention import DenseAttention, PagedKV, Segment
from engine.model.transformer import Transformer
from engine.runner.base import make_runner, warm_up
from engine.runner.cpu.forward import NativeForward
from engine.runner.cpu.native_runner import NativeRunner
from engine.runner.torch_runner import TorchRunner
from tests.engine.runner.cpu.native_code import code
from tests.engine.tiny import write_checkpoint

SHAPES = {
    "one head": (64, 1, 1),
    "grouped": (192, 3, 1),
    "head of 128": (256, 2, 1),
    "many to one": (320, 20, 1),
    "alike": (96, 12, 12),
    "odd": (60, 10, 5),
}
PAGES = 40


def load(folder: Path, shape: str, quantize: str = "int8") -> tuple[EngineConfig, Transformer]:
    code()
    dim, heads, kv_heads = SHAPES[shape]
    checkpoint = open_checkpoint(write_checkpoint(folder, dim=dim, heads=heads, kv_heads=kv_heads, multiple_of=4))
    config = replace(resolve(checkpoint.spec, device="cpu", max_context=512, quantize=quantize), native=True)
    return config, load_weights(config, checkpoint)


class Run:
    """A model and its pages, of which nothing may be read that was not written."""

    def __init__(self, config: EngineConfig, model: Transformer, threads: int = 1) -> None:
        spec = model.spec
        kv = PagedKV(
            spec.n_layers, PAGES, config.page_size, model.kv_heads, spec.head_dim, torch.float32, torch.device("cpu")
        )
        for stored in (*kv.k, *kv.v):
            stored.fill_(torch.nan)
        self._step = NativeForward(code(), model, kv, threads)

    def __call__(self, ids: list[int], *segments: Segment) -> Tensor:
        """The logits of all tokens."""
        with torch.inference_mode():
            return self._step.logits(torch.tensor(ids), segments, range(len(ids)))


def pages(first: int) -> list[int]:
    """Scattered, and different for each row."""
    return [(first + 7 * number) % PAGES for number in range(5)]


@pytest.mark.parametrize("quantize", ["int8", "int4"])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_what_plain_torch_computes(tmp_path: Path, shape: str, quantize: str) -> None:
    config, model = load(tmp_path / "model", shape, quantize)
    ids = [int(number) for number in torch.randint(3, 500, (70,), generator=torch.Generator().manual_seed(1))]
    got = Run(config, model)(ids, Segment(pages(0), 0, len(ids)))
    with torch.inference_mode():
        hidden = model(torch.tensor(ids), torch.arange(len(ids)), DenseAttention(len(ids), config.device))
        expected = model.logits(hidden)
    # The last bits of an activation may tip over into the next of its 16 bits.
    assert float((got - expected).abs().max()) < 2e-3 * float(expected.std())


@pytest.mark.parametrize("shape", SHAPES)
def test_pieces_neighbours_and_threads_change_nothing(tmp_path: Path, shape: str) -> None:
    config, model = load(tmp_path / "model", shape)
    ids = [number * 7 % 500 + 3 for number in range(60)]
    other = [number * 11 % 500 + 3 for number in range(60)]
    whole = Run(config, model)(ids, Segment(pages(0), 0, 60))
    alone = Run(config, model)
    one_by_one = torch.cat([alone([token], Segment(pages(1), at, 1)) for at, token in enumerate(ids)])
    assert torch.equal(one_by_one, whole)
    for threads in (1, 2, 3):
        together, parts = Run(config, model, threads), []
        for start, end in ((0, 1), (1, 18), (18, 19), (19, 47), (47, 60)):
            beside = (Segment(pages(2), start, 1), Segment(pages(3), start, 1))
            tokens = [other[start], *ids[start:end], other[start + 1]]
            if start == 1:  # what its neighbours read was never written, and is their own trouble
                beside = (Segment(pages(2), 0, 1), Segment(pages(3), 0, 1))
            parts.append(together(tokens, beside[0], Segment(pages(0), start, end - start), beside[1])[1:-1])
        assert torch.equal(torch.cat(parts), whole)


def test_what_is_not_a_number_is_seen(tmp_path: Path) -> None:
    config, model = load(tmp_path / "model", "grouped")
    model.tok_embeddings.weight.data[7] = torch.nan
    got = Run(config, model)([5, 7], Segment(pages(0), 0, 1), Segment(pages(1), 0, 1))
    assert bool(got[0].isfinite().all())
    assert bool(got[1].isnan().all())


def test_who_gets_it(tmp_path: Path) -> None:
    config, model = load(tmp_path / "model", "grouped")
    config = replace(config, num_kv_pages=128)
    assert isinstance(make_runner(config, model), NativeRunner)
    for other in (replace(config, native=False), replace(config, world_size=3), replace(config, page_size=8)):
        assert type(make_runner(other, model)) is TorchRunner
    model.output.quantized = None
    assert type(make_runner(config, model)) is TorchRunner


def test_a_closed_runner_does_nothing(tmp_path: Path) -> None:
    """Its pages are gone, and the code would write to where they were."""
    config, model = load(tmp_path / "model", "grouped")
    config = replace(config, num_kv_pages=128)
    runner = make_runner(config, model)
    runner.close()
    runner.close()
    with pytest.raises(RuntimeError, match="closed"):
        warm_up(runner, config)
