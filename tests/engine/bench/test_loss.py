"""The measured loss of quantized weights and KV caches is equal through the kernels and in plain torch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.bench import loss
from engine.checkpoint import Checkpoint, open_checkpoint
from engine.config import resolve
from tests.engine.tiny import write_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(write_checkpoint(tmp_path, dim=64, heads=4, kv_heads=2, layers=1))


@pytest.mark.long
@pytest.mark.parametrize("quantize", ["int4", "fp8"])
def test_kernels_and_plain_torch(quantize: str, checkpoint: Checkpoint) -> None:
    config = resolve(
        checkpoint.spec, device="cpu", quantize="none", max_context=32, max_num_seqs=1, max_prefill_tokens=32
    )
    config = replace(config, quantize=quantize, kv_dtype="int8")
    texts = [list(range(20, 39))]
    model = loss.quantized_model(config, checkpoint)
    plain = loss.log_probabilities_in_torch(config, model, texts)
    kernels = loss.log_probabilities_through_kernels(config, model, texts, prompt_len=17)
    for ids, ours, theirs in zip(texts, kernels, plain, strict=True):
        assert len(ours) == len(ids) - 16
        torch.testing.assert_close(ours, theirs[-len(ours) :], rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("rows", [pytest.param(1, marks=pytest.mark.long), 2])
def test_fp8_weights_and_prompts_in_8_bits(rows: int, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of more than 4 tokens are multiplied in 8 bits both ways here; texts run one by one or together."""
    from engine.runner.cuda import forward
    from engine.runner.cuda.layers import linear  # Triton decides at import whether it interprets

    monkeypatch.setattr(forward, "FUSED_TOKENS", 8)
    monkeypatch.setattr(linear, "FUSED_TOKENS", 8)
    config = resolve(
        checkpoint.spec, device="cpu", quantize="none", max_context=32, max_num_seqs=rows, max_prefill_tokens=32
    )
    config = replace(config, quantize="fp8")
    texts = [list(range(20, 39)), list(range(50, 68))]
    model = loss.quantized_model(config, checkpoint)
    multiplied: list[int] = []
    scaled = linear.ScaledProducts.product

    def product(self: linear.ScaledProducts, x: torch.Tensor, *args: object, **kwargs: bool) -> None:
        multiplied.append(len(x))
        scaled(self, x, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(linear.ScaledProducts, "product", product)
    plain = loss.log_probabilities_in_torch(config, model, texts)
    kernels = loss.log_probabilities_through_kernels(config, model, texts, prompt_len=17)
    assert multiplied
    assert min(multiplied) >= 17
    for ids, ours, theirs in zip(texts, kernels, plain, strict=True):
        assert len(ours) == len(ids) - 16
        expected = theirs[-len(ours) :]
        assert 0 < float((expected.exp() * (expected - ours)).sum(-1).mean()) < 1e-2


def test_lines(checkpoint: Checkpoint) -> None:
    config = resolve(checkpoint.spec, device="cpu", quantize="none", max_context=64, max_num_seqs=1)
    texts = loss.read_texts(checkpoint, 40)
    names = ["int8", "fp8", "fp8-both", "int4", "int4-shuffled", "kv-int8", "kv-fp8"]
    found = list(loss.lines(config, checkpoint, texts, names, plain=True))
    assert [(line["quantize"], line["kv_dtype"]) for line in found] == [loss.VARIANTS[name] for name in names]
    eight, float8, both, four, shuffled, kv8, fp8 = (float(str(line["kl"])) for line in found)
    assert 0 <= eight < float8 < both < min(four, shuffled)
    assert max(four, shuffled) < 0.2
    assert 0 <= kv8 < fp8 < 0.05
    assert all(line["tokens"] == sum(map(len, texts)) for line in found)
