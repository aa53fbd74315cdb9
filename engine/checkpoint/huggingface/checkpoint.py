"""Opens Hugging Face directories: `config.json`, safetensors in one or several files, `tokenizer.json`.

Their query and key rows are ordered for `rotate_half`, which pairs dimension i of a head with i + head_dim / 2; they
are interleaved again while they are read. What a Llama does not have (sliding windows, biases) is refused, not ignored.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from engine.checkpoint.encoding import BF16, F16, F32, Encoding
from engine.checkpoint.families import chat_family, default_system
from engine.checkpoint.files import MAX_CONTEXT, ConfigReader, check_heads, read_json
from engine.checkpoint.huggingface.tokenizer import TokenizerFiles
from engine.checkpoint.reading import Extent
from engine.checkpoint.rope import check_rope_scaling
from engine.checkpoint.spec import ModelSpec, RopeScaling, tensor_shapes
from engine.checkpoint.store import StoredCheckpoint, StoredTensor, TensorPart, check_tensor_names
from engine.errors import ConfigError

_ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
_ENCODINGS: Mapping[str, Encoding] = {"F32": F32, "F16": F16, "BF16": BF16}
_NAMES = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER_NAMES = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
_MAX_NAME = 255  # bytes, on the usual file systems
_LAYER_PREFIX = "model.layers."


def open_huggingface(path: Path) -> StoredCheckpoint:
    """Open the directory; ConfigError if it is damaged, or not a Llama or a Mistral with full attention."""
    config = ConfigReader(path / "config.json", read_json(path / "config.json"))
    _refuse_other_models(config)
    tensors = _locate(path)
    tokenizer_files = TokenizerFiles(path, config)
    spec = _spec(config, tensors, tokenizer_files)
    stored = _stored_tensors(path, tensors, spec)
    checkpoint = StoredCheckpoint(path, spec, stored, lambda: tokenizer_files.tokenizer(spec.chat))
    checkpoint.fit_vocabulary(path, padded=True)
    return checkpoint


def _refuse_other_models(config: ConfigReader) -> None:
    source, architectures = config.source, config.values.get("architectures")
    if not isinstance(architectures, list) or not any(name in _ARCHITECTURES for name in architectures):
        raise ConfigError(source, expected=f"architecture {' or '.join(_ARCHITECTURES)}", found=f"{architectures}")
    window = config.values.get("sliding_window")
    if (
        window is not None
        and window is not False
        and config.integer("sliding_window") < config.integer("max_position_embeddings")
    ):
        raise ConfigError(source, expected="full attention", found=f"a sliding window of {window}")
    for key in ("attention_bias", "mlp_bias"):
        if config.flag(key):
            raise ConfigError(source, expected="linear layers without bias", found=f"{key} = true")
    if config.text("hidden_act") not in (None, "silu"):
        raise ConfigError(source, expected="the activation silu", found=f"{config.text('hidden_act')}")
    if config.has("quantization_config"):
        raise ConfigError(source, expected="weights in float32, float16 or bfloat16", found="a quantization_config")
    for section in (config, config.section("rope_parameters")):
        if section and section.number("partial_rotary_factor", 1.0) != 1.0:
            raise ConfigError(source, expected="RoPE over whole heads", found="a partial_rotary_factor")


def _spec(config: ConfigReader, tensors: Mapping[str, Extent], tokenizer_files: TokenizerFiles) -> ModelSpec:
    dim, n_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    n_kv_heads = config.integer("num_key_value_heads", n_heads)
    head_dim = config.integer("head_dim", dim // n_heads)
    check_heads(config.source, dim, n_heads, n_kv_heads, head_dim)
    tied = config.flag("tie_word_embeddings")
    embeddings = tensors.get("tok_embeddings.weight")
    files = {extent.path for extent in tensors.values()}
    return ModelSpec(
        format="huggingface",
        chat=chat_family(tokenizer_files.template, tokenizer_files.added_token_names(), config.text("model_type")),
        dim=dim,
        n_layers=config.integer("num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        ffn_dim=config.integer("intermediate_size"),
        vocab_size=config.integer("vocab_size"),
        norm_eps=config.number("rms_norm_eps", 1e-6),
        rope_theta=_rope_theta(config),
        rope_scaling=_rope_scaling(config),
        max_context=config.integer("max_position_embeddings", maximum=MAX_CONTEXT),
        tied_embeddings=tied,
        dtype=embeddings.encoding.dtype if embeddings else torch.float32,
        shards=len(files),
        default_system=default_system(tokenizer_files.template),
        chat_template=tokenizer_files.chat_template,
    )


def _rope_theta(config: ConfigReader) -> float:
    rope = config.section("rope_parameters")  # transformers 5 moved it there
    return (
        rope.number("rope_theta", 10000.0) if rope and rope.has("rope_theta") else config.number("rope_theta", 10000.0)
    )


def _rope_scaling(config: ConfigReader) -> RopeScaling | None:
    """As transformers: the name of before version 5 wins where a file has both."""
    rope = _scaled(config.section("rope_scaling")) or _scaled(config.section("rope_parameters"))
    if rope is None:
        return None
    kind = rope.text("rope_type") or rope.text("type") or "default"
    if any(isinstance(value, dict) for value in rope.values.values()):
        raise ConfigError(config.source, expected="one RoPE for all layers", found="settings by kind of layer")
    if kind == "default" or (kind == "linear" and rope.number("factor", 1.0) == 1):
        return None
    if kind != "llama3":
        raise ConfigError(config.source, expected="RoPE unscaled or scaled as Llama 3.1's", found=f"scaling {kind}")
    scaling = RopeScaling(
        factor=rope.number("factor"),
        low_freq_factor=rope.number("low_freq_factor"),
        high_freq_factor=rope.number("high_freq_factor"),
        original_context=rope.integer("original_max_position_embeddings", config.integer("max_position_embeddings")),
    )
    check_rope_scaling(config.source, scaling)
    return scaling


def _scaled(section: ConfigReader | None) -> ConfigReader | None:
    """The section, None if there is nothing in it."""
    return section if section and section.values else None


def _locate(path: Path) -> dict[str, Extent]:
    """The extent of every tensor in the directory, by Meta's name where it has one."""
    index = path / "model.safetensors.index.json"
    # As transformers: one file, where there is one, wins over an index that an earlier version of the model left.
    if (path / "model.safetensors").is_file():
        found = _extents(path / "model.safetensors")
    elif index.is_file():
        weight_map = ConfigReader(index, read_json(index)).section("weight_map")
        if weight_map is None:
            raise ConfigError(index, expected="a weight_map", found="none")
        listed = {str(name): str(file) for name, file in weight_map.values.items()}
        for file in sorted(set(listed.values())):
            if "/" in file or len(file) > _MAX_NAME or not (path / file).is_file():
                raise ConfigError(index, expected=f"the file {file[:_MAX_NAME]} beside it", found="none")
        extents = {file: _extents(path / file) for file in set(listed.values())}
        for name, file in listed.items():
            if name not in extents[file]:
                raise ConfigError(path / file, expected=f"the tensor {name}", found="none of that name")
        found = {name: extents[file][name] for name, file in listed.items()}
    else:
        raise ConfigError(path, expected="model.safetensors, or its index", found="neither")
    return {_meta_name(name): extent for name, extent in found.items() if not name.endswith("rotary_emb.inv_freq")}


def _extents(file: Path) -> dict[str, Extent]:
    """The extents in one file. The library validates the header (sizes, overlaps, gaps), which is then read as JSON."""
    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise ConfigError(file, expected="a complete safetensors file", found=str(error)) from error
    with file.open("rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        header: dict[str, Any] = json.loads(raw.read(length))
    extents: dict[str, Extent] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _ENCODINGS:
            raise ConfigError(file, expected=f"{name} in F32, F16 or BF16", found=str(entry["dtype"]))
        if len(entry["shape"]) > 2:
            raise ConfigError(file, expected=f"{name} as a vector or a matrix", found=f"shape {entry['shape']}")
        rows, cols = [*entry["shape"], 1, 1][:2]
        offset = 8 + length + int(entry["data_offsets"][0])
        extents[name] = Extent(file, offset, rows, cols, _ENCODINGS[entry["dtype"]])
    return extents


def _stored_tensors(path: Path, tensors: Mapping[str, Extent], spec: ModelSpec) -> dict[str, StoredTensor]:
    names = tensors.keys() - ({"output.weight"} if spec.tied_embeddings else set())
    check_tensor_names(path, spec, {name: name for name in names})
    stored: dict[str, StoredTensor] = {}
    for name, shape in tensor_shapes(spec).items():
        extent = tensors[name]
        if (extent.rows, extent.cols) != (*shape, 1)[:2]:
            raise ConfigError(
                extent.path, expected=f"{name} of shape {list(shape)}", found=f"{[extent.rows, extent.cols]}"
            )
        rotated = name.endswith(("attention.wq.weight", "attention.wk.weight"))
        stored[name] = StoredTensor((TensorPart(extent),), extent.path, spec.head_dim if rotated else None)
    return stored


def _meta_name(name: str) -> str:
    if name.startswith(_LAYER_PREFIX) and name.endswith(".weight"):
        layer, _, kind = name[len(_LAYER_PREFIX) : -len(".weight")].partition(".")
        if kind in _LAYER_NAMES:
            return f"layers.{layer}.{_LAYER_NAMES[kind]}.weight"
    return _NAMES.get(name, f"unknown {name}")  # also for Meta's own names, whose rows would be in another order
