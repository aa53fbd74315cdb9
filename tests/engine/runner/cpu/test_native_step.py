"""A forward pass in compiled code equals plain torch, however it is divided into steps and batches."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.checkpoint import open_checkpoint
from engine.config import EngineConfig, resolve
from engine.core.worker import load_weights
from engine.layers.paged_attention import DenseAttention, Segment
from engine.model.transformer import Transformer
from engine.runner.cpu.native_runner import NativeRunner
from engine.runner.factory import make_runner, warm_up
from engine.runner.torch_runner import TorchRunner
from tests.engine.runner.cpu.native_code import NativeModel, page_ids, require_compiled_library
from tests.engine.tiny import write_checkpoint

SHAPES = {
    "one head": (64, 1, 1),
    "grouped": (192, 3, 1),
    "head of 128": (256, 2, 1),
    "large group": (320, 20, 1),
    "ungrouped": (96, 12, 12),
    "odd": (60, 10, 5),
}


def load(folder: Path, shape: str, quantize: str = "int8") -> tuple[EngineConfig, Transformer]:
    require_compiled_library()
    dim, heads, kv_heads = SHAPES[shape]
    checkpoint = open_checkpoint(write_checkpoint(folder, dim=dim, heads=heads, kv_heads=kv_heads, multiple_of=4))
    config = replace(resolve(checkpoint.spec, device="cpu", max_context=512, quantize=quantize), native=True)
    return config, load_weights(config, checkpoint)


@pytest.mark.parametrize("quantize", ["int8", "int4"])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_plain_torch(tmp_path: Path, shape: str, quantize: str) -> None:
    config, model = load(tmp_path / "model", shape, quantize)
    ids = [int(number) for number in torch.randint(3, 500, (70,), generator=torch.Generator().manual_seed(1))]
    logits = NativeModel(config, model)(ids, Segment(page_ids(0), 0, len(ids)))
    with torch.inference_mode():
        hidden = model(torch.tensor(ids), torch.arange(len(ids)), DenseAttention(len(ids), config.device))
        expected = model.logits(hidden)
    # An activation may round to the neighbouring 16-bit code.
    assert float((logits - expected).abs().max()) < 2e-3 * float(expected.std())


@pytest.mark.parametrize("shape", SHAPES)
def test_chunks_neighbours_and_threads_change_nothing(tmp_path: Path, shape: str) -> None:
    config, model = load(tmp_path / "model", shape)
    steps_change_nothing(lambda threads: NativeModel(config, model, threads))


def steps_change_nothing(make: Callable[[int], NativeModel]) -> None:
    """`make(threads)` returns the model with empty pages."""
    ids = [number * 7 % 500 + 3 for number in range(60)]
    other = [number * 11 % 500 + 3 for number in range(60)]
    whole = make(1)(ids, Segment(page_ids(0), 0, 60))
    alone = make(1)
    one_by_one = torch.cat([alone([token], Segment(page_ids(1), at, 1)) for at, token in enumerate(ids)])
    assert torch.equal(one_by_one, whole)
    for threads in (1, 2, 3):
        together, chunks = make(threads), []
        for start, end in ((0, 1), (1, 18), (18, 19), (19, 47), (47, 60)):
            # At a later position the neighbours read NaN, as their earlier ones were never written; it must not spread.
            beside = (Segment(page_ids(2), start, 1), Segment(page_ids(3), start, 1))
            tokens = [other[start], *ids[start:end], other[start + 1]]
            if start == 1:
                beside = (Segment(page_ids(2), 0, 1), Segment(page_ids(3), 0, 1))
            chunks.append(together(tokens, beside[0], Segment(page_ids(0), start, end - start), beside[1])[1:-1])
        assert torch.equal(torch.cat(chunks), whole)


def test_nan_reaches_the_logits_of_its_row_only(tmp_path: Path) -> None:
    config, model = load(tmp_path / "model", "grouped")
    model.tok_embeddings.weight.data[7] = torch.nan
    logits = NativeModel(config, model)([5, 7], Segment(page_ids(0), 0, 1), Segment(page_ids(1), 0, 1))
    assert bool(logits[0].isfinite().all())
    assert bool(logits[1].isnan().all())


def test_which_models_get_the_native_runner(tmp_path: Path) -> None:
    config, model = load(tmp_path / "model", "grouped")
    config = replace(config, num_kv_pages=128)
    assert isinstance(make_runner(config, model), NativeRunner)
    for other in (replace(config, native=False), replace(config, world_size=3), replace(config, page_size=8)):
        assert type(make_runner(other, model)) is TorchRunner
    model.output.quantized = None
    assert type(make_runner(config, model)) is TorchRunner


def test_a_closed_runner_raises(tmp_path: Path) -> None:
    """Its pages are freed, and the compiled code would write to them."""
    config, model = load(tmp_path / "model", "grouped")
    config = replace(config, num_kv_pages=128)
    runner = make_runner(config, model)
    runner.close()
    runner.close()
    with pytest.raises(RuntimeError, match="closed"):
        warm_up(runner, config)
