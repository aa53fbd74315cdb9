"""RoPE's settings in GGUF files: metadata, and for Llama 3.1 and LongRoPE tables of factors among the tensors."""

import torch
from torch import Tensor

from engine.checkpoint.architecture import LinearScaling, LongRopeScaling, RopeScaling, YarnScaling
from engine.checkpoint.encoding import F32
from engine.checkpoint.files import MAX_CONTEXT, ConfigReader
from engine.checkpoint.gguf.container import GgufFile
from engine.checkpoint.rope import (
    check_attention_factor,
    check_factors,
    check_yarn,
    default_yarn_attention,
    scaling_from_factors,
)
from engine.errors import ConfigError

_LLAMA3, _LONG, _SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
FACTOR_TABLES = frozenset((_LLAMA3, _LONG, _SHORT))


def read_scaling(
    file: GgufFile, metadata: ConfigReader, architecture: str, dim: int, theta: float
) -> RopeScaling | None:
    """The scaling of RoPE over `dim` dimensions of a head."""
    prefix = f"{architecture}.rope.scaling"
    if _LONG in file.tensors or _SHORT in file.tensors:
        short, long = (
            check_factors(file.path, name, _table(file, name, dim // 2).tolist(), dim // 2) for name in (_SHORT, _LONG)
        )
        original = _original_context(metadata, architecture)
        attention = metadata.number(f"{prefix}.attn_factor", 1.0)
        check_attention_factor(file.path, attention)
        return LongRopeScaling(short, long, original, attention)
    # As in llama.cpp: a factor without a type is a linear one, `scale_linear` its name of 2023, and 0 stands for 1.
    names = (f"{prefix}.factor", f"{architecture}.rope.scale_linear")
    given = next((name for name in names if metadata.has(name)), None)
    factor = 1.0 if given is None or metadata.values[given] == 0 else metadata.number(given)
    match metadata.text(f"{prefix}.type") or "linear":
        case "yarn" if factor != 1:
            scaling = _yarn(metadata, architecture, factor)
            check_yarn(file.path, scaling, theta)
            return scaling
        case "linear" if factor != 1:
            return LinearScaling(factor)
        case "none" | "linear" | "yarn":
            pass
        case kind:
            expected = "RoPE unscaled, or scaled by linear, yarn, longrope or as Llama 3.1's"
            raise ConfigError(file.path, expected=expected, found=f"scaling {kind}, factor {factor}")
    if _LLAMA3 not in file.tensors:
        return None
    return scaling_from_factors(file.path, _table(file, _LLAMA3, dim // 2), dim, theta)


def _yarn(metadata: ConfigReader, architecture: str, factor: float) -> YarnScaling:
    prefix = f"{architecture}.rope.scaling"
    for key, neutral in (("yarn_log_multiplier", (0, 0.0)), ("yarn_ext_factor", (1, 1.0, -1, -1.0))):
        if metadata.has(f"{prefix}.{key}") and metadata.values[f"{prefix}.{key}"] not in neutral:
            raise metadata.invalid(f"{prefix}.{key}", "absent")
    key = next((k for k in ("yarn_attn_factor", "attn_factor") if metadata.has(f"{prefix}.{k}")), "attn_factor")
    return YarnScaling(
        factor=factor,
        original_context=_original_context(metadata, architecture),
        attention_factor=metadata.number(f"{prefix}.{key}", 1.0) * default_yarn_attention(factor),
        beta_fast=metadata.number(f"{prefix}.yarn_beta_fast", 32.0),
        beta_slow=metadata.number(f"{prefix}.yarn_beta_slow", 1.0),
    )


def _original_context(metadata: ConfigReader, architecture: str) -> int:
    name = f"{architecture}.rope.scaling.original_context_length"
    return metadata.integer(name, metadata.integer(f"{architecture}.context_length"), maximum=MAX_CONTEXT)


def _table(file: GgufFile, name: str, count: int) -> Tensor:
    extent = file.tensors.get(name)
    if extent is None:
        raise ConfigError(file.path, expected=f"the tensor {name}", found="none of that name")
    if (extent.encoding, extent.rows, extent.cols) != (F32, count, 1):
        found = f"{extent.encoding.name} of shape {list(file.shapes[name])}"
        raise ConfigError(file.path, expected=f"{name} as {count} numbers in F32", found=found)
    with extent.path.open("rb") as raw:
        raw.seek(extent.offset)
        return torch.frombuffer(bytearray(raw.read(extent.end - extent.offset)), dtype=torch.float32)
