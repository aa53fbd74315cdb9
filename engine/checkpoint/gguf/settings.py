"""What a GGUF file's metadata says of a model: its family, its sizes, and what its blocks consist of."""

import math
from collections import Counter
from dataclasses import replace

import torch

from engine.checkpoint.architecture import Architecture
from engine.checkpoint.chat_families import chat_family, default_system
from engine.checkpoint.chat_template import template_of_gguf
from engine.checkpoint.files import MAX_CONTEXT, MAX_EXPERTS, MAX_LAYERS, ConfigReader, check_heads
from engine.checkpoint.gguf.container import GgufFile
from engine.checkpoint.gguf.rope import read_scaling
from engine.checkpoint.model_families import Family
from engine.checkpoint.rope import stretched_context
from engine.checkpoint.spec import ModelSpec
from engine.errors import ConfigError

# Settings that llama.cpp applies to any architecture or to models of other makers, and the values that change nothing.
_OTHER_ARITHMETIC = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.temperature_scale": (0,),
    "expert_gating_func": (0, 1),
    "expert_shared_count": (0,),
    "expert_weights_norm": (True,),
    "expert_weights_scale": (0, 1),
    "leading_dense_block_count": (0,),
    "embedding_scale": (0, 1),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "use_parallel_residual": (False,),
}


def read_spec(file: GgufFile, metadata: ConfigReader, family: Family) -> ModelSpec:
    """The model's spec; ConfigError for settings that the engine does not have."""
    path, arch = file.path, f"{metadata.text('general.architecture')}"
    experts = metadata.integer(f"{arch}.expert_count", 0, minimum=0, maximum=MAX_EXPERTS)
    if experts and not family.expert_width:
        raise ConfigError(path, expected=f"a dense {family.name}", found="a mixture of experts")
    family.check_arithmetic(metadata, _OTHER_ARITHMETIC, f"{arch}.")
    dim, n_heads = metadata.integer(f"{arch}.embedding_length"), metadata.integer(f"{arch}.attention.head_count")
    n_kv_heads = metadata.integer(f"{arch}.attention.head_count_kv", n_heads)
    head_dim = metadata.integer(f"{arch}.attention.key_length", dim // n_heads)
    if metadata.integer(f"{arch}.attention.value_length", head_dim) != head_dim:
        raise ConfigError(path, expected=f"values of {head_dim} dimensions, as keys", found="others")
    check_heads(path, dim, n_heads, n_kv_heads, head_dim)
    rotary_dim = metadata.integer(f"{arch}.rope.dimension_count", head_dim)
    if rotary_dim != head_dim and not (family.partial_rotary and rotary_dim < head_dim and rotary_dim % 2 == 0):
        raise ConfigError(path, expected=f"RoPE over all {head_dim} dimensions of a head", found="over a part of them")
    theta = metadata.number(f"{arch}.rope.freq_base", 10000.0)
    scaling = read_scaling(file, metadata, arch, rotary_dim, theta)
    context = stretched_context(path, metadata.integer(f"{arch}.context_length", maximum=MAX_CONTEXT), scaling)
    n_layers = metadata.integer(f"{arch}.block_count", maximum=MAX_LAYERS)
    template = metadata.text("tokenizer.chat_template")
    embeddings = file.shapes.get("token_embd.weight", (0,))
    matrices = [extent.encoding for name, extent in file.tensors.items() if len(file.shapes[name]) >= 2]
    block_types = Counter(encoding.name for encoding in matrices if encoding.decode is not None)
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    blocks = replace(
        _blocks(file, metadata, family, arch),
        rotary_dim=None if rotary_dim == head_dim else rotary_dim,
        experts=experts,
        experts_per_token=metadata.integer(f"{arch}.expert_used_count", maximum=experts) if experts else 0,
    )
    width = f"{arch}.expert_feed_forward_length"
    return ModelSpec(
        format="gguf",
        chat=chat_family(template, {str(t) for t in tokens} if isinstance(tokens, list) else set()),
        dim=dim,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        ffn_dim=metadata.integer(width if experts and metadata.has(width) else f"{arch}.feed_forward_length"),
        vocab_size=embeddings[0],
        norm_eps=metadata.number(f"{arch}.attention.layer_norm_rms_epsilon"),
        rope_theta=theta,
        rope_scaling=scaling,
        max_context=context,
        tied_embeddings="output.weight" not in file.tensors,
        dtype=torch.float32 if block_types or not matrices else matrices[0].dtype,
        shards=len({extent.path for extent in file.tensors.values()}),
        quantization="+".join(name for name, _ in block_types.most_common()) or None,
        stored_bits=_stored_bits(file) if block_types else None,
        default_system=default_system(template),
        chat_template=template_of_gguf(file.metadata),
        family=family.name,
        architecture=_with_windows(metadata, family, arch, blocks, n_layers, context),
    )


def _stored_bits(file: GgufFile) -> float:
    extents = file.tensors.values()
    return 8 * sum(each.end - each.offset for each in extents) / sum(each.rows * each.cols for each in extents)


def _blocks(file: GgufFile, metadata: ConfigReader, family: Family, arch: str) -> Architecture:
    dim, n_heads = metadata.integer(f"{arch}.embedding_length"), metadata.integer(f"{arch}.attention.head_count")
    scale = metadata.values.get(f"{arch}.attention.scale")
    attention_scale = metadata.number(f"{arch}.attention.scale") if scale not in (None, 0) else None
    layers = metadata.integer(f"{arch}.block_count", maximum=MAX_LAYERS)
    if attention_scale is None and layers == family.gguf_width_scale_layers:
        attention_scale = (dim / n_heads) ** -0.5
    names = file.tensors.keys()
    return replace(
        family.blocks,
        qkv_bias=family.blocks.qkv_bias or "blk.0.attn_q.bias" in names,
        output_bias="blk.0.attn_output.bias" in names,
        ffn_bias="blk.0.ffn_up.bias" in names,
        embedding_scale=math.sqrt(dim) if family.scaled_embeddings else 1.0,
        attention_scale=attention_scale,
        attention_softcap=_softcap(metadata, family, arch, "attn_logit_softcapping"),
        logit_softcap=_softcap(metadata, family, arch, "final_logit_softcapping"),
    )


def _softcap(metadata: ConfigReader, family: Family, arch: str, name: str) -> float | None:
    key = f"{arch}.{name}"
    if not metadata.has(key):
        default = family.defaults.get(name)
        return float(default) if isinstance(default, int | float) else None
    if metadata.values[key] == 0:
        return None
    if not family.softcaps:
        raise metadata.invalid(key, f"absent, as in a model of the family {family.name}")
    return metadata.number(key)


def _with_windows(
    metadata: ConfigReader, family: Family, arch: str, blocks: Architecture, n_layers: int, context: int
) -> Architecture:
    """`blocks` with the window of each layer, and the theta of layers with one."""
    key = f"{arch}.attention.sliding_window"
    default = family.defaults.get("sliding_window", 0) if family.full_every else 0
    window = metadata.integer(key, default if isinstance(default, int) else 0, minimum=0)
    if not window:
        return blocks
    pattern = metadata.values.get(f"{key}_pattern")
    if isinstance(pattern, list):
        if len(pattern) != n_layers or not all(isinstance(local, bool) for local in pattern):
            raise metadata.invalid(f"{key}_pattern", f"true or false for each of {n_layers} layers")
        local = [bool(each) for each in pattern]
    else:
        every = metadata.integer(f"{key}_pattern", family.full_every, minimum=0)
        local = [not (every and (layer + 1) % every == 0) for layer in range(n_layers)]
    windows = family.windows(metadata.source, [window if each else None for each in local], context)
    theta = metadata.number(f"{arch}.rope.freq_base_swa", 10000.0) if family.local_rope and any(windows) else None
    return replace(blocks, windows=windows, local_rope_theta=theta)
