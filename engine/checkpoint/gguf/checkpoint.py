"""Opens GGUF files, in one part or several.

llama.cpp's converter writes a Llama's query and key rows as interleaved pairs, as Meta has them; other families' rows
keep Hugging Face's order and are interleaved while they are read.
"""

from collections.abc import Mapping
from pathlib import Path

from engine.checkpoint.files import ConfigReader, check_vocab_size
from engine.checkpoint.gguf.container import GgufFile
from engine.checkpoint.gguf.rope import FACTOR_TABLES
from engine.checkpoint.gguf.settings import read_spec
from engine.checkpoint.gguf.split import read_parts
from engine.checkpoint.gguf.tokenizer import make_tokenizer
from engine.checkpoint.model_families import gguf_family
from engine.checkpoint.reading import Extent
from engine.checkpoint.spec import ModelSpec, tensor_shapes
from engine.checkpoint.store import Halves, StoredCheckpoint, StoredTensor, TensorPart
from engine.checkpoint.tensor_names import check_tensor_names, is_rotated, split_fused
from engine.errors import ConfigError

_NAMES = {
    "token_embd.weight": "tok_embeddings.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "output.weight",
}
_LAYER_NAMES = {
    "attn_q": "attention.wq",
    "attn_k": "attention.wk",
    "attn_v": "attention.wv",
    "attn_qkv": "attention.wqkv",
    "attn_output": "attention.wo",
    "attn_q_norm": "attention.q_norm",
    "attn_k_norm": "attention.k_norm",
    "ffn_gate_inp": "feed_forward.router",
    "ffn_gate_exps": "feed_forward.experts.w1",
    "ffn_down_exps": "feed_forward.experts.w2",
    "ffn_up_exps": "feed_forward.experts.w3",
    "ffn_gate": "feed_forward.w1",
    "ffn_down": "feed_forward.w2",
    "ffn_up": "feed_forward.w3",
    "attn_norm": "attention_norm",
    "post_attention_norm": "post_attention_norm",
    "ffn_norm": "ffn_norm",
    "post_ffw_norm": "post_ffn_norm",
}


def open_gguf(path: Path) -> StoredCheckpoint:
    """Open a GGUF file; ConfigError unless it is complete, of a known family, with block types that can be decoded."""
    file = read_parts(path)
    metadata = ConfigReader(path, dict(file.metadata))
    family = gguf_family(metadata)
    spec = read_spec(file, metadata, family)
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list):  # checked before a tokenizer of that many tokens is built
        check_vocab_size(path, embeddings=spec.vocab_size, tokenizer=len(tokens))
    tensors = _tensors(file, spec, Halves(spec.head_dim, spec.rotary_dim))
    if family.gguf_pairs:
        tensors = {name: StoredTensor(tensor.parts, tensor.path) for name, tensor in tensors.items()}
    checkpoint = StoredCheckpoint(path, spec, tensors, lambda: make_tokenizer(file, spec.chat))
    checkpoint.fit_vocabulary(path)
    return checkpoint


def _tensors(file: GgufFile, spec: ModelSpec, halves: Halves) -> dict[str, StoredTensor]:
    names = {_our_name(name, file.tensors): name for name in file.tensors if name not in FACTOR_TABLES}
    extents = split_fused(file.path, spec, _split_experts(file, spec, names))
    check_tensor_names(file.path, spec, {ours: names.get(ours, ours) for ours in extents})
    for ours, shape in tensor_shapes(spec).items():
        extent = extents[ours]
        found = file.shapes[names[ours]] if ours in names else (extent.rows, extent.cols)
        if found != shape:
            name = names.get(ours, ours)
            raise ConfigError(file.path, expected=f"{name} of shape {list(shape)}", found=f"{list(found)}")
    return {
        ours: StoredTensor((TensorPart(extents[ours]),), extents[ours].path, halves if is_rotated(ours) else None)
        for ours in tensor_shapes(spec)
    }


def _split_experts(file: GgufFile, spec: ModelSpec, names: dict[str, str]) -> dict[str, Extent]:
    """The extents by our names, with a layer's experts, one matrix for all, as one each; their names leave `names`."""
    extents: dict[str, Extent] = {}
    experts = spec.architecture.experts
    for ours, name in list(names.items()):
        extent, shape = file.tensors[name], file.shapes[name]
        before, found, matrix = ours.partition(".experts.")
        if not found or not experts or matrix[:1].isdigit():
            extents[ours] = extent
            continue
        if len(shape) != 3 or shape[0] != experts:
            raise ConfigError(file.path, expected=f"{name} of {experts} matrices", found=f"shape {list(shape)}")
        del names[ours]
        for expert in range(experts):
            extents[f"{before}.experts.{expert}.{matrix}"] = extent.row_range(expert * shape[1], shape[1])
    return extents


def _our_name(name: str, names: Mapping[str, object]) -> str:
    match name.split("."):
        case ["blk", layer, ("ffn_gate" | "ffn_down" | "ffn_up") as kind, expert, "weight"]:  # Mixtrals of 2023
            return f"layers.{layer}.feed_forward.experts.{expert}.{_LAYER_NAMES[kind][-2:]}.weight"
        case ["blk", layer, "ffn_up", "weight"] if f"blk.{layer}.ffn_gate.weight" not in names:
            return f"layers.{layer}.feed_forward.w13.weight"  # gate and up in one matrix
        case ["blk", layer, kind, ("weight" | "bias") as what] if kind in _LAYER_NAMES:
            return f"layers.{layer}.{_LAYER_NAMES[kind]}.{what}"
    return _NAMES.get(name, f"unknown {name}")
