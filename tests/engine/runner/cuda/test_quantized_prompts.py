"""Products of prompts with 8-bit weights: by our GEMM up to a limit of tokens, above it dequantized for cuBLAS."""

import pytest
import torch
from torch import nn

from engine.config import EngineConfig
from engine.kernels.pdl import supported
from engine.model.eight_bit_weight import EightBitWeight, Fp8Weight, Int8Weight
from engine.runner.cuda.layers import linear
from engine.runner.cuda.layers.linear import Linear

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROWS, COLUMNS = 96, 136  # neither is a multiple of a block
CLOSE = {"rtol": 2**-9, "atol": 2e-3}  # float16


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE)


def layer(kind: type[EightBitWeight]) -> nn.Module:
    module = nn.Module()
    module.quantized = kind(random(ROWS, COLUMNS) * COLUMNS**-0.5)
    return module


def products(max_quantized_weights: int, dtype: torch.dtype = torch.float16) -> Linear:
    config = EngineConfig(DEVICE, dtype, max_num_seqs=1, max_context=256, max_prefill_tokens=256)
    return Linear(config, 1e-5, max_quantized_weights)


@pytest.mark.parametrize("kind", [Int8Weight, Fp8Weight])
@pytest.mark.parametrize("tokens", [65, 150])
def test_a_prompt_is_multiplied_by_the_weights_as_they_are(kind: type[EightBitWeight], tokens: int) -> None:
    """`gemm` and `gemm_add`; there is no buffer in which the weights could be dequantized."""
    module, x, before = layer(kind), random(tokens, COLUMNS).half(), random(tokens, ROWS).half()
    expected = x.float() @ module.quantized.dequantize().T
    without_room, out, h = products(0), torch.full_like(before, torch.nan), before.clone()
    without_room.gemm(x, module, out)
    torch.testing.assert_close(out.float(), expected, **CLOSE)
    without_room.gemm_add(x, module, h)
    torch.testing.assert_close(h.float(), before.float() + expected, **CLOSE)


def test_a_prompt_past_the_limit_is_multiplied_by_dequantized_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "EIGHT_BIT_PROMPT_TOKENS", 69)
    module, x, before = layer(Int8Weight), random(70, COLUMNS).half(), random(70, ROWS).half()
    with pytest.raises(RuntimeError, match="invalid for input of size 0"):
        products(0).gemm(x, module, before.clone())
    expected = x.float() @ module.quantized.dequantize().T
    with_room, out, h = products(ROWS * COLUMNS), torch.full_like(before, torch.nan), before.clone()
    with_room.gemm(x, module, out)
    torch.testing.assert_close(out.float(), expected, **CLOSE)
    with_room.gemm_add(x, module, h)
    torch.testing.assert_close(h.float(), before.float() + expected, **CLOSE)


def test_float32_prompts_are_left_to_cublas() -> None:
    module, x = layer(Int8Weight), random(70, COLUMNS)
    out = torch.full((70, ROWS), torch.nan, device=DEVICE)
    products(ROWS * COLUMNS, torch.float32).gemm(x, module, out)
    torch.testing.assert_close(out, x @ module.quantized.dequantize().T, rtol=1e-5, atol=1e-5)
    with pytest.raises(RuntimeError, match="invalid for input of size 0"):
        products(0, torch.float32).gemm(x, module, out)


@pytest.mark.skipif(not supported(DEVICE), reason="bulk copies of a Hopper card")
@pytest.mark.parametrize("columns", [136, 140])
def test_rows_of_a_ragged_length_need_no_bulk_copies(columns: int) -> None:
    """A bulk copy needs rows that are multiples of 16 bytes; others are loaded without it."""
    module, x = nn.Module(), random(200, columns).half()
    module.quantized = Int8Weight(random(ROWS, columns) * columns**-0.5)
    out = torch.full((200, ROWS), torch.nan, dtype=torch.float16, device=DEVICE)
    products(0).gemm(x, module, out)
    torch.testing.assert_close(out.float(), x.float() @ module.quantized.dequantize().T, **CLOSE)
