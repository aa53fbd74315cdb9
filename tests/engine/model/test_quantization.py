"""Quantized weights and KV caches before a model runs: which settings are refused, and how much memory they take."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from engine import config as engine_config
from engine.bench.random_model import RandomCheckpoint, spec
from engine.config import resolve
from engine.errors import ConfigError
from engine.model.loader import load_model
from engine.model.quantization import quantize_block, quantized_weight
from engine.runner.memory import kv_bytes_per_page
from engine.runner.weight_memory import quantized_weight_bytes

TINY = spec("tiny", context=128, vocab=100)


@pytest.mark.parametrize("kv_dtype", ["int8", "fp8"])
def test_a_cpu_does_not_quantize_the_kv_cache(kv_dtype: str) -> None:
    with pytest.raises(ConfigError, match=f"--kv-dtype: expected auto on a CPU; found {kv_dtype}"):
        resolve(TINY, device="cpu", kv_dtype=kv_dtype)


def test_a_cpu_has_no_fp8_weights() -> None:
    with pytest.raises(ConfigError, match=r"--quantize: expected auto, none, int8 or int4: a CPU .* found fp8"):
        resolve(TINY, device="cpu", quantize="fp8")


def test_fp8_needs_a_gpu_with_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_config, "_device", lambda *_: torch.device("cuda", 0))
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (8, 6))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "GeForce RTX 3060")
    with pytest.raises(ConfigError, match=r"--kv-dtype: expected auto or int8: the GeForce .* found fp8"):
        resolve(TINY, kv_dtype="fp8")
    assert resolve(TINY, kv_dtype="int8").kv_dtype == "int8"
    with pytest.raises(ConfigError, match=r"--quantize: expected auto, none, int8 or int4: the GeForce .* found fp8"):
        resolve(TINY, quantize="fp8")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (8, 9))
    assert resolve(TINY, kv_dtype="fp8", quantize="int4").quantize == "int4"
    assert resolve(TINY, quantize="fp8").quantize == "fp8"
    with pytest.raises(ConfigError, match="one of auto, fp8, int8"):
        resolve(TINY, kv_dtype="int4")


def test_bytes_of_a_page_include_its_scales() -> None:
    config = replace(resolve(TINY, device="cpu"), dtype=torch.bfloat16)
    vectors = 2 * 2 * 16 * 4  # keys and values, layers, tokens, heads
    assert kv_bytes_per_page(TINY, config) == vectors * 16 * 2
    assert kv_bytes_per_page(TINY, replace(config, kv_dtype="fp8")) == vectors * 16
    assert kv_bytes_per_page(TINY, replace(config, kv_dtype="int8")) == vectors * (16 + 2)


@pytest.mark.parametrize(("bits", "fp8"), [(8, False), (8, True), (4, False)])
def test_bytes_of_quantized_weights(bits: int, fp8: bool) -> None:
    config = replace(resolve(TINY, device="cpu"), dtype=torch.bfloat16)
    model = load_model(config, RandomCheckpoint(TINY), partial(quantize_block, bits=bits, fp8=fp8))
    held = [*model.parameters(), *(buffer for block in model.blocks for buffer in block.buffers())]
    expected = quantized_weight_bytes(TINY, 1, torch.bfloat16, bits)
    assert sum(each.numel() * each.element_size() for each in held) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("group", [32, 128, 512])
def test_4_bit_codes_of_a_file_are_kept(dtype: torch.dtype, group: int) -> None:
    """As GPTQ's symmetric ones. Only the step is rounded, to half a unit of 8 bits; one step for a row stays exact."""
    generator = torch.Generator().manual_seed(4)
    codes = (torch.randn(48, 512, generator=generator) * 1.5).round().clamp(-8, 7)
    steps = ((torch.rand(48, 512 // group, generator=generator) + 0.3) / 50).half().float().repeat_interleave(group, 1)
    error = (quantized_weight((codes * steps).to(dtype), 4).dequantize() - codes * steps).abs()
    unit = steps.amax(1, keepdim=True) / 255
    rounded = {torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}[dtype] * (codes * steps).abs()
    assert bool((error <= codes.abs() * unit * (0.51 if group < 512 else 0.0) + rounded).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_4_bit_codes_with_zero_points_are_nearly_kept(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    codes = (torch.randn(48, 512, generator=generator) * 2 + 7).round().clamp(0, 15)
    zeros = torch.randint(3, 12, (48, 4), generator=generator).repeat_interleave(128, 1)
    steps = ((torch.rand(48, 4, generator=generator) + 0.5) / 50).half().float().repeat_interleave(128, 1)
    weight = (codes - zeros) * steps
    error = (quantized_weight(weight.to(dtype), 4).dequantize() - weight).abs() / steps
    assert float(error.square().mean().sqrt()) < 1 / 40


def test_models_fit_into_half_of_common_gpus() -> None:
    """In int4, 13B takes half a GPU of 16 GB, and 7B half a GPU of 8 GB."""
    assert quantized_weight_bytes(spec("13b"), 1, torch.bfloat16, 4) < 8 << 30
    assert quantized_weight_bytes(spec("7b"), 1, torch.bfloat16, 4) < 4 << 30
    assert quantized_weight_bytes(spec("7b"), 2, torch.bfloat16, 4) < 2.2 * (1 << 30)
