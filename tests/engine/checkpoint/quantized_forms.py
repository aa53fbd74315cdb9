"""Packs small matrices as quantizers do, number by number from the formats' definitions, with what they stand for.

`FORMS` has, for each form, the quantization_config and a function that packs a matrix [outputs, inputs].
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.engine.checkpoint.builders import TOKENIZER, Tiny, hf_config, hf_tensors, weights

TINY = Tiny(dim=64, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=96)
Packed = tuple[dict[str, Tensor], Tensor]  # the tensors by the last part of their names, and the weights they stand for


@dataclass(frozen=True)
class Form:
    """`config` is the quantization_config."""

    config: Mapping[str, object]
    pack: Callable[[Tensor, torch.Generator], Packed]
    stored_as: str
    kept: tuple[str, ...] = field(default=("lm_head", "embed_tokens"))  # parts of the names of plain matrices


def words(codes: Tensor, bits: int, dim: int, order: tuple[int, ...] | None = None) -> Tensor:
    """Unsigned codes in 32-bit words along `dim`; place i of a word gets the code at order[i] of its group."""
    if dim == 0:
        return words(codes.t(), bits, 1).t().contiguous()
    count = 32 // bits
    table = codes.tolist()
    packed = []
    for line in table:
        line = line + [0] * (-len(line) % count)
        row = []
        for first in range(0, len(line), count):
            word = 0
            for place, source in enumerate(order or range(count)):
                word |= line[first + source] << (bits * place)
            row.append(word - (1 << 32) if word >= 1 << 31 else word)
        packed.append(row)
    return torch.tensor(packed, dtype=torch.int32)


def some_codes(w: Tensor, bits: int, group: int, generator: torch.Generator, symmetric: bool) -> tuple[Tensor, ...]:
    """Codes [out, in], zero points and scales [out, groups]: any numbers, since nothing asks for a good fit."""
    rows, cols = w.shape
    groups, top = cols // group, 1 << bits
    codes = torch.randint(0, top, w.shape, generator=generator)
    zeros = torch.full((rows, groups), top // 2)
    if not symmetric:
        zeros = torch.randint(1, top, zeros.shape, generator=generator)
    scales = (torch.rand(rows, groups, generator=generator) + 0.5) * 0.6 / top
    return codes, zeros, scales.half()


def gptq(
    bits: int, size: int, *, shuffled: bool = False, symmetric: bool = True, v2: bool = False, index: bool = True
) -> Callable[[Tensor, torch.Generator], Packed]:
    def pack(w: Tensor, generator: torch.Generator) -> Packed:
        cols = w.shape[1]
        group = cols if size == -1 else size
        codes, zeros, scales = some_codes(w, bits, group, generator, symmetric)
        g_idx = torch.arange(cols) // group
        if shuffled:
            g_idx = g_idx[torch.randperm(cols, generator=generator)]
        parts = {
            "qweight": words(codes.t(), bits, 0),
            "qzeros": words(zeros.t() - (0 if v2 else 1), bits, 1),
            "scales": scales.t().contiguous(),
        }
        if index:
            parts["g_idx"] = g_idx.int()
        return parts, (codes - zeros[:, g_idx]).float() * scales[:, g_idx].float()

    return pack


def awq(size: int) -> Callable[[Tensor, torch.Generator], Packed]:
    def pack(w: Tensor, generator: torch.Generator) -> Packed:
        group = w.shape[1] if size == -1 else size
        codes, zeros, scales = some_codes(w, 4, group, generator, symmetric=False)
        order = (0, 2, 4, 6, 1, 3, 5, 7)
        parts = {
            "qweight": words(codes.t(), 4, 1, order),
            "qzeros": words(zeros.t(), 4, 1, order),
            "scales": scales.t().contiguous(),
        }
        each = torch.arange(w.shape[1]) // group
        return parts, (codes - zeros[:, each]).float() * scales[:, each].float()

    return pack


def float8(
    block: tuple[int, int], name: str, dtype: torch.dtype = torch.float32, *, scalar: bool = False
) -> Callable[[Tensor, torch.Generator], Packed]:
    def pack(w: Tensor, generator: torch.Generator) -> Packed:
        rows, cols = w.shape
        height, width = block[0] or rows, block[1] or cols
        codes = (w * 1000).clamp(-448, 448).to(torch.float8_e4m3fn)
        scales = torch.rand(-(-rows // height), -(-cols // width), generator=generator) / 500 + 1e-4
        if dtype == torch.float8_e8m0fnu:
            scales = torch.exp2(torch.randint(-11, -8, scales.shape, generator=generator).float())
        scales = scales.to(dtype)
        each = scales.float()[torch.arange(rows) // height][:, torch.arange(cols) // width]
        stored = scales.reshape([]) if scalar else scales
        return {"weight": codes, name: stored, "input_scale": torch.tensor(1.0)}, codes.float() * each

    return pack


def int8(size: int, *, rows: bool = True, zeros: bool = False) -> Callable[[Tensor, torch.Generator], Packed]:
    def pack(w: Tensor, generator: torch.Generator) -> Packed:
        group = size or w.shape[1]
        grid = (w.shape[0] if rows else 1, w.shape[1] // group)
        codes = torch.randint(-128, 128, w.shape, generator=generator)
        scales = (torch.rand(grid, generator=generator) / 500).bfloat16()
        zero = torch.randint(-20, 20, grid, generator=generator) if zeros else torch.zeros(grid, dtype=torch.int64)
        parts = {"weight": codes.to(torch.int8), "weight_scale": scales}
        if zeros:
            parts["weight_zero_point"] = zero.to(torch.int8)
        each = torch.arange(w.shape[1]) // group
        return parts, (codes - zero[:, each]).float() * scales.float()[:, each]

    return pack


def packed(
    bits: int, size: int, *, zeros: bool = False, shuffled: bool = False
) -> Callable[[Tensor, torch.Generator], Packed]:
    def pack(w: Tensor, generator: torch.Generator) -> Packed:
        group, half = size or w.shape[1], 1 << (bits - 1)
        codes, zero, scales = some_codes(w, bits, group, generator, symmetric=not zeros)
        g_idx = torch.arange(w.shape[1]) // group
        if shuffled:
            g_idx = g_idx[torch.randperm(w.shape[1], generator=generator)]
        parts = {
            "weight_packed": words(codes, bits, 1),
            "weight_scale": scales,
            "weight_shape": torch.tensor(w.shape),
        }
        if zeros:
            parts["weight_zero_point"] = words(zero, bits, 0)
        if shuffled:
            parts["weight_g_idx"] = g_idx.int()
        signed, offset = codes - half, zero - half
        return parts, (signed - offset[:, g_idx]).float() * scales[:, g_idx].float()

    return pack


def compressed(form: str, **weights: object) -> dict[str, object]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": {"num_bits": 8, "dynamic": True}}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
    }


def _gptq_config(bits: int, size: int, **more: object) -> dict[str, object]:
    return {"quant_method": "gptq", "bits": bits, "group_size": size, "desc_act": False, "sym": True, **more}


_FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "modules_to_not_convert": ["lm_head"]}
_AWQ = {"quant_method": "awq", "bits": 4, "zero_point": True, "version": "gemm"}
FORMS = {
    "gptq": Form(_gptq_config(4, 32), gptq(4, 32), "int4 in groups of 32 (gptq)"),
    "gptq act-order": Form(
        _gptq_config(4, 16, desc_act=True), gptq(4, 16, shuffled=True, symmetric=False), "int4 in groups of 16 (gptq)"
    ),
    "gptq 8 bits, one group": Form(
        _gptq_config(8, -1), gptq(8, -1, symmetric=False), "int8 with a scale for each row (gptq)"
    ),
    "gptq v2": Form(
        _gptq_config(4, 32, checkpoint_format="gptq_v2"),
        gptq(4, 32, symmetric=False, v2=True, index=False),
        "int4 in groups",
    ),
    "awq": Form({**_AWQ, "group_size": 32}, awq(32), "int4 in groups of 32 (awq)"),
    "awq, one group": Form(
        {"quant_method": "awq", "w_bit": 4, "q_group_size": -1}, awq(-1), "int4 with a scale for each row (awq)"
    ),
    "fp8 blocks": Form(
        {**_FP8, "weight_block_size": [24, 40]}, float8((24, 40), "weight_scale_inv"), "float8 in blocks of 24 x 40"
    ),
    "fp8 ue8m0": Form(
        {**_FP8, "weight_block_size": [32, 32]},
        float8((32, 32), "weight_scale_inv", torch.float8_e8m0fnu),
        "float8 in blocks",
    ),
    "fp8 scalar": Form(
        {**_FP8, "weight_block_size": None}, float8((0, 0), "weight_scale_inv", torch.bfloat16, scalar=True), "float8"
    ),
    "fbgemm rows": Form({"quant_method": "fbgemm_fp8"}, float8((1, 0), "weight_scale"), "float8"),
    "ct float rows": Form(
        compressed("float-quantized", num_bits=8, type="float", strategy="channel", symmetric=True),
        float8((1, 0), "weight_scale", torch.bfloat16),
        "float8 with a scale for each row",
    ),
    "ct float tensor": Form(
        compressed("float-quantized", num_bits=8, type="float", strategy="tensor"),
        float8((0, 0), "weight_scale"),
        "float8",
    ),
    "ct float blocks": Form(
        compressed("float-quantized", num_bits=8, type="float", strategy="block", block_structure=[32, 16]),
        float8((32, 16), "weight_scale"),
        "float8 in blocks of 32 x 16",
    ),
    "ct int8 rows": Form(
        compressed("int-quantized", num_bits=8, type="int", strategy="channel"),
        int8(0),
        "int8 with a scale for each row",
    ),
    "ct int8 zero points": Form(
        compressed("int-quantized", num_bits=8, type="int", strategy="group", group_size=16, symmetric=False),
        int8(16, zeros=True),
        "int8 in groups of 16",
    ),
    "ct int8 tensor": Form(
        compressed("int-quantized", num_bits=8, type="int", strategy="tensor"), int8(0, rows=False), "int8"
    ),
    "ct naive int8": Form(
        compressed("naive-quantized", num_bits=8, type="int", strategy="channel"), int8(0), "int8 with a scale"
    ),
    "ct packed": Form(
        compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=32),
        packed(4, 32),
        "int4 in groups of 32",
    ),
    "ct packed zero points": Form(
        compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=16, symmetric=False),
        packed(4, 16, zeros=True),
        "int4 in groups of 16",
    ),
    "ct packed act-order": Form(
        compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=16, actorder="group"),
        packed(4, 16, shuffled=True),
        "int4",
    ),
    "ct packed 8 bits rows": Form(
        compressed("pack-quantized", num_bits=8, type="int", strategy="channel"),
        packed(8, 0),
        "int8 with a scale for each row",
    ),
}


def write(
    path: Path,
    form: Form,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    config: Mapping[str, object] | None = None,
    change: Callable[[dict[str, Tensor]], object] | None = None,
) -> tuple[Path, Path]:
    """The quantized folder, and one with the weights that it stands for in float32."""
    generator = torch.Generator().manual_seed(5)
    quantized: dict[str, Tensor] = {}
    plain: dict[str, Tensor] = {}
    for name, tensor in (tensors or hf_tensors(weights(TINY, dtype=torch.float16), TINY)).items():
        module = name.removesuffix(".weight")
        if tensor.dim() == 1 or any(kept in name for kept in form.kept):
            quantized[name] = plain[name] = tensor
            continue
        parts, plain[name] = form.pack(tensor.float(), generator)
        quantized |= {f"{module}.{kind}": part for kind, part in parts.items()}
    if change is not None:
        change(quantized)
    settings = hf_config(TINY) | dict(config or {})
    folders = path / "quantized", path / "plain"
    for folder, stored, more in zip(
        folders, (quantized, plain), ({"quantization_config": form.config}, {}), strict=True
    ):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(settings | more))
        (folder / "tokenizer.model").write_bytes(TOKENIZER.read_bytes())
        save_file(stored, folder / "model.safetensors")
    return folders
