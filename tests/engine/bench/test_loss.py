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
def test_kernels_and_plain_torch(checkpoint: Checkpoint) -> None:
    config = resolve(
        checkpoint.spec, device="cpu", quantize="none", max_context=32, max_num_seqs=1, max_prefill_tokens=32
    )
    config = replace(config, quantize="int4", kv_dtype="int8")
    texts = [list(range(20, 39))]
    model = loss.quantized_model(config, checkpoint)
    plain = loss.log_probabilities_in_torch(config, model, texts)
    kernels = loss.log_probabilities_through_kernels(config, model, texts, prompt_len=17)
    for ids, ours, theirs in zip(texts, kernels, plain, strict=True):
        assert len(ours) == len(ids) - 16
        torch.testing.assert_close(ours, theirs[-len(ours) :], rtol=1e-3, atol=2e-3)


def test_lines(checkpoint: Checkpoint) -> None:
    config = resolve(checkpoint.spec, device="cpu", quantize="none", max_context=64, max_num_seqs=1)
    texts = loss.read_texts(checkpoint, 40)
    found = list(
        loss.lines(config, checkpoint, texts, ["int8", "int4", "int4-shuffled", "kv-int8", "kv-fp8"], plain=True)
    )
    assert [(line["quantize"], line["kv_dtype"]) for line in found] == list(loss.VARIANTS.values())[:5]
    eight, four, shuffled, kv8, fp8 = (float(str(line["kl"])) for line in found)
    assert 0 <= eight < min(four, shuffled)
    assert max(four, shuffled) < 0.2
    assert 0 <= kv8 < fp8 < 0.05
    assert all(line["tokens"] == sum(map(len, texts)) for line in found)
