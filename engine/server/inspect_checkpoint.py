"""`python -m engine inspect PATH`: what a checkpoint is and how much memory it needs. Reads no weights.

Builds the tokenizer and the chat format, so that it refuses a checkpoint that could not be served. Knows no requests.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from engine.chat.chat_format import choose_format
from engine.checkpoint import Checkpoint, ModelSpec, open_checkpoint, tensor_shapes
from engine.config import PAGE_SIZE, default_dtype, default_quantize
from engine.distributed.tensor_parallel import check_divisible
from engine.runner.memory import HOST_MAX_SLOTS, HOST_MEMORY_FRACTION, available_bytes, kv_bytes_per_token
from engine.runner.weight_memory import cpu_weight_bytes, quantized_weight_bytes, served_bytes, weight_bytes
from engine.tokenizers.piecewise import PiecewiseEncoder

_RESERVED_GPU_BYTES = 1 << 30  # for kernels, activations and CUDA graphs


@dataclass(frozen=True, slots=True)
class GpuCapacity:
    """A GPU of this machine; `cached_tokens` fit into its KV cache beside the weights of one rank."""

    name: str
    free_bytes: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Report:
    """The fields of the JSON output."""

    path: str
    format: str
    family: str
    features: tuple[str, ...]  # what its blocks have beyond a plain Llama's
    chat: str
    chat_template: str
    parameters: int
    stored_as: str
    stored_bits: float  # of a weight, on average
    shards: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    world_size: int
    compute_dtype: str
    weight_bytes_per_rank: int
    quantize: str  # what --quantize auto is on this machine
    served_dtype: str  # what --dtype auto is on this machine
    served_bytes_per_rank: int  # weights with both
    kv_bytes_per_token_per_rank: int
    kv_bytes_of_context_per_rank: int  # one dialog as long as the model's context
    int8_bytes_per_rank: int  # weights with --quantize int8 or int4 on a GPU, keys and values with --kv-dtype int8
    int4_bytes_per_rank: int
    kv_int8_bytes_per_token_per_rank: int
    cpu_int8_bytes: int  # weights with --quantize int8 or int4 on a CPU, one rank
    cpu_int4_bytes: int
    host_tier_tokens: int  # that half of the host's free memory keeps, --kv-host-memory auto; 0 without a GPU
    gpus: tuple[GpuCapacity, ...]


def report(path: str | Path, *, world_size: int = 1, as_json: bool = False, template_file: str | None = None) -> str:
    """A table, or JSON. Raises ConfigError for a path, a world size or a template that cannot work."""
    checkpoint = open_checkpoint(path)
    try:
        result = make_report(checkpoint, world_size, template_file)
    finally:
        checkpoint.close()
    return (json.dumps(asdict(result), indent=2) if as_json else render(result)) + "\n"


def make_report(checkpoint: Checkpoint, world_size: int, template_file: str | None = None) -> Report:
    """Raises ConfigError for a world size that does not divide the heads, and for dialogs that cannot be prompts."""
    spec = checkpoint.spec
    check_divisible(spec, world_size)
    chosen = choose_format(spec, PiecewiseEncoder(checkpoint.tokenizer()), template_file)
    dtype = compute_dtype(spec)
    shapes = tensor_shapes(spec)
    weights = weight_bytes(spec, world_size, dtype)
    kv = kv_bytes_per_token(spec, world_size, dtype)
    on_gpu = torch.cuda.is_available()
    served = served_bytes(spec, world_size, on_gpu=on_gpu)
    host = available_bytes(torch.device("cpu"))
    return Report(
        path=str(checkpoint.path),
        format=spec.format,
        family=spec.family,
        features=_features(spec),
        chat=spec.chat,
        chat_template=chosen.description,
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        stored_as=spec.quantization or _dtype_name(spec.dtype),
        stored_bits=round(spec.stored_bits or spec.dtype.itemsize * 8, 2),
        shards=spec.shards,
        layers=spec.n_layers,
        heads=spec.n_heads,
        kv_heads=spec.n_kv_heads,
        vocabulary=spec.vocab_size,
        context=spec.max_context,
        world_size=world_size,
        compute_dtype=_dtype_name(dtype),
        weight_bytes_per_rank=weights,
        quantize=default_quantize(spec, on_gpu=on_gpu),
        served_dtype=_dtype_name(default_dtype(spec, on_gpu=on_gpu)),
        served_bytes_per_rank=served,
        kv_bytes_per_token_per_rank=kv,
        kv_bytes_of_context_per_rank=kv * spec.max_context,
        int8_bytes_per_rank=quantized_weight_bytes(spec, world_size, dtype, 8),
        int4_bytes_per_rank=quantized_weight_bytes(spec, world_size, dtype, 4),
        kv_int8_bytes_per_token_per_rank=kv_bytes_per_token(spec, world_size, torch.int8),
        cpu_int8_bytes=cpu_weight_bytes(spec, 8),
        cpu_int4_bytes=cpu_weight_bytes(spec, 4),
        host_tier_tokens=_host_tier_tokens(host, kv * world_size) if on_gpu else 0,
        gpus=tuple(_gpu_capacities(served, kv)),
    )


def _features(spec: ModelSpec) -> tuple[str, ...]:
    """What a model has beyond a plain Llama: first its blocks, by the alphabet, then the rest."""
    blocks, scaling = spec.architecture, spec.rope_scaling
    of_blocks = {
        "attention_scale": blocks.attention_scale not in (None, spec.head_dim**-0.5),
        "attention_softcap": blocks.attention_softcap is not None,
        "embedding_scale": blocks.embedding_scale != 1,
        "experts": blocks.experts > 0,
        "ffn_bias": blocks.ffn_bias,
        "float32_norms": blocks.float32_norms,
        "gelu_tanh": blocks.uses_gelu,
        "head_size": spec.head_dim & (spec.head_dim - 1) != 0,  # other than a power of two
        "local_rope": blocks.local_rope_theta is not None,
        "logit_softcap": blocks.logit_softcap is not None,
        "output_bias": blocks.output_bias,
        "post_norms": blocks.post_norms,
        "qk_norm": blocks.qk_norm,
        "qkv_bias": blocks.qkv_bias,
        "windows": any(window is not None and window < spec.max_context for window in blocks.windows),
    }
    more = {
        "tied_embeddings": spec.tied_embeddings,
        f"rope_{type(scaling).__name__.removesuffix('Scaling').lower()}": scaling is not None,
        "partial_rotary": blocks.rotary_dim is not None,
    }
    return tuple(name for name, present in (of_blocks | more).items() if present)


def _host_tier_tokens(free_bytes: int, kv_bytes_per_token: int) -> int:
    return min(int(free_bytes * HOST_MEMORY_FRACTION) // kv_bytes_per_token, HOST_MAX_SLOTS * PAGE_SIZE)


def compute_dtype(spec: ModelSpec) -> torch.dtype:
    """A 16-bit dtype as stored; a wider one becomes float32 on a CPU and bfloat16 on a GPU."""
    if spec.dtype in (torch.bfloat16, torch.float16):
        return spec.dtype
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def render(report: Report) -> str:
    """The table."""
    ranks = _count(report.world_size, "rank")
    lines = [
        ("checkpoint", report.path),
        ("format", f"{report.format}, chat format {report.chat}"),
        ("dialogs", f"by {report.chat_template}"),
        ("family", ", ".join((report.family, *report.features))),
        (
            "parameters",
            f"{report.parameters:,} stored as {report.stored_as}, {report.stored_bits:g} bits each, "
            f"in {_count(report.shards, 'file')}",
        ),
        ("layers", f"{report.layers}, heads {report.heads}, key/value heads {report.kv_heads}"),
        ("vocabulary", f"{report.vocabulary:,}"),
        ("context", f"{report.context:,} tokens"),
        ("weights", f"{_size(report.weight_bytes_per_rank)} on each of {ranks}, {report.compute_dtype}"),
        *_served(report),
        (
            "KV cache",
            f"{_size(report.kv_bytes_per_token_per_rank)} per token and rank, "
            f"{_size(report.kv_bytes_of_context_per_rank)} for the whole context",
        ),
        ("on a CPU", f"weights in int8 {_size(report.cpu_int8_bytes)}, in int4 {_size(report.cpu_int4_bytes)}"),
        (
            "quantized",
            f"on a GPU, weights in int8 {_size(report.int8_bytes_per_rank)}, in int4 "
            f"{_size(report.int4_bytes_per_rank)}; KV in int8 {_size(report.kv_int8_bytes_per_token_per_rank)}",
        ),
    ]
    for n, gpu in enumerate(report.gpus):
        fits = f"{gpu.cached_tokens:,} cached tokens fit" if gpu.cached_tokens else "too small for the weights"
        lines.append((f"GPU {n}", f"{gpu.name}, {_size(gpu.free_bytes)} free: {fits}"))
    if report.host_tier_tokens:
        lines.append(("host", f"{report.host_tier_tokens:,} tokens of idle dialogs fit into half of its free memory"))
    if not report.gpus:
        lines.append(("GPU", "none"))
    return "\n".join(f"{name:<12}{text}" for name, text in lines)


def _served(report: Report) -> list[tuple[str, str]]:
    if report.served_bytes_per_rank == report.weight_bytes_per_rank:
        return []
    kind = report.served_dtype if report.quantize == "none" else report.quantize
    return [("by default", f"{kind} here: {_size(report.served_bytes_per_rank)} on each rank")]


def _gpu_capacities(weight_bytes: int, kv_bytes_per_token: int) -> list[GpuCapacity]:
    capacities = []
    for n in range(torch.cuda.device_count()):
        free, _total = torch.cuda.mem_get_info(n)
        tokens = max(0, free - weight_bytes - _RESERVED_GPU_BYTES) // kv_bytes_per_token
        capacities.append(GpuCapacity(torch.cuda.get_device_name(n), free, tokens))
    return capacities


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
