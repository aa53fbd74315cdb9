"""Opens Hugging Face directories: `config.json`, safetensors in one or several files, `tokenizer.json`.

Matrices may be quantized (`engine.checkpoint.quantized`). Query and key rows are ordered for `rotate_half`, which pairs
dimension i of a head with i + head_dim / 2; they are interleaved again while they are read.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from engine.checkpoint.files import ConfigReader, read_json
from engine.checkpoint.huggingface.settings import read_settings, read_spec
from engine.checkpoint.huggingface.tensors import check_plain, locate
from engine.checkpoint.huggingface.tokenizer import TokenizerFiles
from engine.checkpoint.quantized import Method, QuantizedMatrix, find_matrices, read_method, read_own_file
from engine.checkpoint.quantized.biases import without_zero_biases
from engine.checkpoint.reading import Extent
from engine.checkpoint.spec import ModelSpec, tensor_shapes
from engine.checkpoint.store import Halves, StoredCheckpoint, StoredTensor, TensorPart
from engine.checkpoint.tensor_names import check_tensor_names, is_rotated, split_fused
from engine.errors import ConfigError

_NAMES = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER_NAMES = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.qkv_proj": "attention.wqkv",
    "self_attn.o_proj": "attention.wo",
    "self_attn.q_norm": "attention.q_norm",
    "self_attn.k_norm": "attention.k_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.gate_up_proj": "feed_forward.w13",
    "mlp.gate": "feed_forward.router",
    "block_sparse_moe.gate": "feed_forward.router",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
# The layer's matrices in an expert: Qwen's names, Mixtral's.
_EXPERTS = ("mlp.experts.", "block_sparse_moe.experts.")
_EXPERT_NAMES = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3", "w1": "w1", "w2": "w2", "w3": "w3"}
# With norms after both parts of a block, the name that others give to the norm before the second part says what it is.
_POST_NORM_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffn_norm",
}
# Of vision-language models: how the names of their language model begin, in either generation of transformers.
_PREFIXES = (("language_model.", ""), ("model.language_model.", "model."))
_LAYER_PREFIX = "model.layers."


def open_huggingface(path: Path) -> StoredCheckpoint:
    """Open the directory; ConfigError if it is damaged, or not of a family that the engine has."""
    family, config = read_settings(ConfigReader(path / "config.json", read_json(path / "config.json")))
    method = read_method(config)
    tensors = locate(path)
    method = method or read_own_file(path, tensors)
    tokenizer_files = TokenizerFiles(path, config)
    spec = read_spec(family, config, tensors, tokenizer_files)
    matrices: Mapping[str, Extent | QuantizedMatrix] = tensors
    if method is not None:
        matrices = find_matrices(config.source, method, tensors)
        spec = _quantized_spec(spec, method, matrices, tensors)
    stored = _stored_tensors(path, matrices, spec, 1.0 if family.norm_offset else 0.0)
    checkpoint = StoredCheckpoint(path, spec, stored, lambda: tokenizer_files.tokenizer(spec.chat))
    checkpoint.fit_vocabulary(path, padded=True)
    return checkpoint


def _quantized_spec(
    spec: ModelSpec, method: Method, matrices: Mapping[str, Extent | QuantizedMatrix], tensors: Mapping[str, Extent]
) -> ModelSpec:
    """`spec` with what the weights are stored in; `config` chooses a CPU's bits by how `quantization` begins."""
    weights = sum(matrix.rows * matrix.cols for matrix in matrices.values())
    stored = sum(extent.rows * extent.row_bytes for extent in tensors.values())
    return replace(spec, quantization=str(method), stored_bits=stored * 8 / weights)


def _stored_tensors(
    path: Path, tensors: Mapping[str, Extent | QuantizedMatrix], spec: ModelSpec, norm_offset: float
) -> dict[str, StoredTensor]:
    layer_names = _LAYER_NAMES | (_POST_NORM_NAMES if spec.architecture.post_norms else {})
    found = {_our_name(name, layer_names): extent for name, extent in tensors.items()}
    for name, extent in tensors.items():
        if isinstance(extent, Extent):
            check_plain(name, extent)
    found = without_zero_biases(spec, split_fused(path, spec, found))
    if spec.tied_embeddings:
        found.pop("output.weight", None)
    check_tensor_names(path, spec, {name: name for name in found})
    halves = Halves(spec.head_dim, spec.rotary_dim)
    stored: dict[str, StoredTensor] = {}
    for name, shape in tensor_shapes(spec).items():
        extent = found[name]
        if (extent.rows, extent.cols) != (*shape, 1)[:2]:
            raise ConfigError(
                extent.path, expected=f"{name} of shape {list(shape)}", found=f"{[extent.rows, extent.cols]}"
            )
        offset = norm_offset if name.endswith("norm.weight") else 0.0
        stored[name] = StoredTensor((TensorPart(extent),), extent.path, halves if is_rotated(name) else None, offset)
    return stored


def _our_name(name: str, layer_names: Mapping[str, str]) -> str:
    for prefix, ours in _PREFIXES:
        if name.startswith(prefix):
            name = ours + name[len(prefix) :]
    if name.startswith(_LAYER_PREFIX):
        layer, _, rest = name[len(_LAYER_PREFIX) :].partition(".")
        kind, _, what = rest.rpartition(".")
        if kind in layer_names and what in ("weight", "bias"):
            return f"layers.{layer}.{layer_names[kind]}.{what}"
        expert, _, matrix = next((kind[len(p) :] for p in _EXPERTS if kind.startswith(p)), "").partition(".")
        if matrix in _EXPERT_NAMES and what == "weight":
            return f"layers.{layer}.feed_forward.experts.{expert}.{_EXPERT_NAMES[matrix]}.weight"
    return _NAMES.get(name, f"unknown {name}")  # also for Meta's own names, whose rows would be in another order
