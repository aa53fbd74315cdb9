"""Every family in compiled C++ equals plain torch over the same quantized weights, however it is divided into steps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.checkpoint import open_checkpoint
from engine.config import EngineConfig, resolve
from engine.core.worker import load_weights
from engine.layers.paged_attention import DenseAttention, Segment
from engine.model.transformer import Transformer
from engine.runner.cpu.linear import NativeLinear
from engine.runner.cpu.native_runner import NativeRunner
from engine.runner.factory import make_runner
from tests.engine.families.cases import CASES, make_oracle, write_huggingface
from tests.engine.runner.cpu.native_code import NativeModel, page_ids, require_compiled_library

IDS = [int(number) for number in torch.randint(3, 500, (70,), generator=torch.Generator().manual_seed(1))]


def load(folder: Path, name: str, quantize: str = "int8") -> tuple[EngineConfig, Transformer]:
    require_compiled_library()
    checkpoint = open_checkpoint(write_huggingface(folder, make_oracle(CASES[name])))
    config = resolve(checkpoint.spec, device="cpu", max_context=CASES[name].max_context, quantize=quantize)
    return replace(config, native=True, num_kv_pages=64), load_weights(config, checkpoint)


@pytest.mark.parametrize("quantize", ["int8", pytest.param("int4", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", CASES)
def test_logits_equal_plain_torch(tmp_path: Path, name: str, quantize: str) -> None:
    config, model = load(tmp_path, name, quantize)
    whole = NativeModel(config, model)(IDS, Segment(page_ids(0), 0, len(IDS)))
    with torch.inference_mode():
        hidden = model(torch.tensor(IDS), torch.arange(len(IDS)), DenseAttention(len(IDS), config.device))
        expected = model.logits(hidden)
    # An activation may round to the neighbouring 16-bit code.
    assert float((whole - expected).abs().max()) < 2e-3 * float(expected.std())
    divided = NativeModel(config, model, threads=2)
    chunks = [
        divided(IDS[start:end], Segment(page_ids(0), start, end - start))
        for start, end in ((0, 1), (1, 18), (18, 19), (19, 47), (47, 70))
    ]
    assert torch.equal(torch.cat(chunks), whole)
    assert isinstance(make_runner(config, model), NativeRunner)


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_experts_are_quantized(tmp_path: Path, quantize: str) -> None:
    config, model = load(tmp_path, "qwen3-moe", quantize)
    whole = load_weights(replace(config, quantize="none"), open_checkpoint(tmp_path))
    assert all(isinstance(linear.quantized, NativeLinear) for block in model.blocks for linear in block.linears)
    with torch.inference_mode():
        ours, expected = (
            made.embed(torch.tensor(IDS)) + made.blocks[0].experts(made.embed(torch.tensor(IDS)))
            for made in (model, whole)
        )
    assert float((ours - expected).abs().max()) < {"int8": 0.03, "int4": 0.4}[quantize] * float(expected.std())
