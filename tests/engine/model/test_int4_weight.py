"""4-bit weights of files keep their values; others are rounded; matrices of more bits in a mixed file get 8."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.checkpoint import Checkpoint, open_checkpoint
from engine.checkpoint.gguf import super_blocks
from engine.config import EngineConfig
from engine.model.eight_bit_weight import Int8Weight
from engine.model.int4_groups import OFFSET, SCALE, ZERO
from engine.model.int4_weight import Int4Weight
from engine.model.loader import load_model
from engine.model.quantization import has_wider_matrices, quantize_block, were_all_codes
from engine.model.quantized_weight import QuantizedWeight
from tests.engine.checkpoint import quantized_forms
from tests.engine.checkpoint.builders import (
    Tiny,
    add_byte_vocabulary,
    finish_gguf,
    gguf_name,
    gguf_writer,
    weights,
    write_gguf,
)

CONFIG = EngineConfig(
    device=torch.device("cpu"), dtype=torch.bfloat16, max_num_seqs=1, max_context=64, max_prefill_tokens=32
)
ROUNDING = 2.0**-11  # of float16


def matrices(checkpoint: Checkpoint) -> Iterator[tuple[QuantizedWeight, Tensor]]:
    """Each layer's matrix as a GPU holds it, and as the file has it."""
    quantize = partial(quantize_block, bits=4, mixed=has_wider_matrices(checkpoint.spec.quantization))
    ours = load_model(CONFIG, checkpoint, quantize, exact=True)
    plain = load_model(replace(CONFIG, dtype=torch.float32), checkpoint)
    for block, reference in zip(ours.blocks, plain.blocks, strict=True):
        for layer, original in zip(block.linears, reference.linears, strict=True):
            assert isinstance(layer.quantized, QuantizedWeight)
            assert not layer.weight.numel()
            yield layer.quantized, original.weight


def assert_kept(ours: QuantizedWeight, expected: Tensor) -> None:
    """But for the rounding of a group's step and offset to float16."""
    groups = expected.view(len(expected), -1, 32)
    limit = ROUNDING * groups.abs().amax(-1, keepdim=True)
    assert bool(((ours.dequantize().view_as(groups) - groups).abs() <= limit).all())


@pytest.mark.parametrize(("kind", "form"), [("Q4_0", SCALE), ("Q4_1", OFFSET)])
def test_a_gguf_files_blocks_are_kept(kind: str, form: int, tmp_path: Path) -> None:
    tiny = Tiny(dim=64, n_heads=4, n_kv_heads=2, ffn_dim=96)
    path = write_gguf(tmp_path / "model.gguf", tiny, kind=gguf.GGMLQuantizationType[kind])
    for ours, expected in matrices(open_checkpoint(path)):
        assert isinstance(ours, Int4Weight)
        assert ours.format == form
        if form == SCALE:
            assert torch.equal(ours.dequantize(), expected)
        else:
            assert_kept(ours, expected)


@pytest.mark.parametrize(
    "name", [name for name, form in quantized_forms.FORMS.items() if form.stored_as.startswith("int4")]
)
def test_the_groups_of_a_folder_are_kept(name: str, tmp_path: Path) -> None:
    """But for groups of 16, and those whose columns lie apart."""
    quantized, _ = quantized_forms.write(tmp_path, quantized_forms.FORMS[name])
    checkpoint = open_checkpoint(quantized)
    for ours, expected in matrices(checkpoint):
        assert isinstance(ours, Int4Weight)
        if "groups of 16" in str(checkpoint.spec.quantization):
            assert ours.format == ZERO
        else:
            assert ours.format != ZERO
            assert_kept(ours, expected)


def test_q4_k_is_kept() -> None:
    """Its sub-blocks' scales and minima are products of a float16 and 6 bits."""
    generator = np.random.default_rng(3)
    raw = generator.integers(0, 256, (64, 144), dtype=np.uint8)
    raw[:, 0:4] = (generator.random((64, 2)) * 1e-3 + 1e-4).astype(np.float16).view(np.uint8)
    weight = torch.from_numpy(super_blocks.q4_k(raw)).view(16, 1024)
    assert were_all_codes([weight])
    ours = Int4Weight(weight)
    assert ours.format == OFFSET
    assert_kept(ours, weight)


def test_other_matrices_of_a_mixed_file_get_8_bits(tmp_path: Path) -> None:
    """As GGUF's Q4_K_M has: a matrix beside others, and v beside q and k of 4 bits."""
    tiny = Tiny(dim=64, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=96)
    writer = gguf_writer(tmp_path / "model.gguf", tiny)
    add_byte_vocabulary(writer, tiny.vocab_size)
    for name, tensor in weights(tiny).items():
        values = tensor.float().numpy()
        wide = name in ("layers.0.feed_forward.w2.weight", "layers.1.attention.wv.weight")
        kind = gguf.GGMLQuantizationType.Q5_0 if wide else gguf.GGMLQuantizationType.Q4_0
        if values.ndim == 1:
            writer.add_tensor(gguf_name(name), values)
        else:
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
    finish_gguf(writer)
    checkpoint = open_checkpoint(tmp_path / "model.gguf")
    assert has_wider_matrices(checkpoint.spec.quantization)
    found = [type(ours) for ours, _ in matrices(checkpoint)]
    assert found == [Int4Weight] * 3 + [Int8Weight] * 2 + [Int4Weight] * 3  # qkv, o, gate and up, down of two layers
    assert not has_wider_matrices("Q4_0")
    assert not has_wider_matrices(None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_codes_are_found_in_weights_of_any_dtype(dtype: torch.dtype) -> None:
    """With and without an offset, groups of one value and of zeros among them."""
    generator = torch.Generator().manual_seed(4)
    codes = (torch.randn(48, 16, 32, generator=generator) * 2.5).round().clamp(-8, 7)
    codes[3, 2], codes[5, 1] = 3, 0
    step = ((torch.rand(48, 16, 1, generator=generator) + 0.3) / 50).half().float()
    rounding = {torch.float32: 2.0**-12, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}[dtype]
    for minimum in (0.0, step * 3.25):
        weight = (codes * step + minimum).view(48, 512)
        ours = Int4Weight(weight.to(dtype))
        assert ours.format == (OFFSET if dtype != torch.float16 and not isinstance(minimum, float) else ours.format)
        limit = rounding * weight.view(48, 16, 32).abs().amax(-1).repeat_interleave(32, 1)
        assert bool(((ours.dequantize() - weight).abs() <= limit + 1e-9).all())


def test_rows_of_any_size_keep_their_precision() -> None:
    """A row's scale is a power of two that brings its groups into float16's range."""
    weight = torch.randn(24, 256, generator=torch.Generator().manual_seed(1))
    size = 10.0 ** torch.arange(-12, 12).float()[:, None]
    ours = Int4Weight(weight * size).dequantize() / size
    assert bool(((ours - weight).norm(dim=1) < 0.1 * weight.norm(dim=1)).all())


def test_offsets_are_added_without_a_change() -> None:
    """As for experts of one layer whose groups have different formats."""
    for weight in (torch.randn(40, 256), (torch.randn(40, 256) * 2).round().clamp(-8, 7) / 4):
        ours = Int4Weight(weight)
        before = ours.dequantize()
        ours.add_offsets()
        assert ours.format == OFFSET
        assert torch.equal(ours.dequantize(), before)
        assert isinstance(ours, nn.Module)


def test_chunks_are_rounded_alike_alone_and_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adjacent chunks without codes are rounded at once; chunks with codes keep them."""
    monkeypatch.setattr("engine.model.quantized_weight._CHUNK_WEIGHTS", 8 * 256)
    generator = torch.Generator().manual_seed(6)
    weight = torch.randn(108, 256, generator=generator) * 0.02
    alone = [Int4Weight(chunk) for chunk in weight.split(8)]
    together = Int4Weight(weight)
    assert together.format == ZERO
    for name in ("words", "scales", "groups"):
        assert torch.equal(getattr(together, name), torch.cat([getattr(each, name) for each in alone]))
    weight[40:48] = (torch.randn(8, 256, generator=generator) * 2).round().clamp(-8, 7) / 64
    mixed = Int4Weight(weight)
    assert mixed.format == OFFSET
    assert torch.equal(mixed.dequantize()[40:48], weight[40:48])
    assert torch.equal(mixed.dequantize()[:40], together.dequantize()[:40])
    assert torch.equal(mixed.dequantize()[48:], together.dequantize()[48:])
