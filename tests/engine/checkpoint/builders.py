"""Writes small checkpoints of every format from the same random weights, so that formats can be compared.

The weights have Meta's names and row order, unsplit. Each writer splits, renames and reorders them for its format.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.checkpoint import Checkpoint, tensor_shapes
from engine.config import EngineConfig
from engine.layers.paged_attention import AttentionRule
from engine.model.loader import load_model

GOLDEN = Path(__file__).parents[2] / "golden"
TOKENIZER = GOLDEN / "llama2-tiny" / "tokenizer.model"
SPLIT_DIMS = {"wq": 0, "wk": 0, "wv": 0, "w1": 0, "w3": 0, "output": 0, "wo": 1, "w2": 1, "tok_embeddings": 1}


@dataclass(frozen=True)
class Tiny:
    """The shape of a small Llama; by default six query heads on three key/value heads."""

    dim: int = 96
    n_layers: int = 2
    n_heads: int = 6
    n_kv_heads: int = 3
    ffn_dim: int = 256
    vocab_size: int = 512

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads


def weights(tiny: Tiny, seed: int = 1, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Random weights of this shape, by Meta's names."""
    generator = torch.Generator().manual_seed(seed)
    kv = tiny.n_kv_heads * tiny.head_dim
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (tiny.vocab_size, tiny.dim)}
    for n in range(tiny.n_layers):
        layer = {
            "attention.wq": (tiny.dim, tiny.dim),
            "attention.wk": (kv, tiny.dim),
            "attention.wv": (kv, tiny.dim),
            "attention.wo": (tiny.dim, tiny.dim),
            "feed_forward.w1": (tiny.ffn_dim, tiny.dim),
            "feed_forward.w2": (tiny.dim, tiny.ffn_dim),
            "feed_forward.w3": (tiny.ffn_dim, tiny.dim),
            "attention_norm": (tiny.dim,),
            "ffn_norm": (tiny.dim,),
        }
        shapes |= {f"layers.{n}.{name}.weight": shape for name, shape in layer.items()}
    shapes |= {"norm.weight": (tiny.dim,), "output.weight": (tiny.vocab_size, tiny.dim)}
    made = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator) * 0.1
        made[name] = (values + 1 if len(shape) == 1 else values).to(dtype)
    return made


# Meta


def shard(
    tensors: Mapping[str, Tensor], rank: int, shards: int, split_dims: Mapping[str, int] = SPLIT_DIMS
) -> dict[str, Tensor]:
    parts = {}
    for name, tensor in tensors.items():
        dim = split_dims.get(name.split(".")[-2])
        parts[name] = (tensor if dim is None else tensor.chunk(shards, dim)[rank]).clone()
    return parts


def params(tiny: Tiny) -> dict[str, object]:
    return {
        "dim": tiny.dim,
        "multiple_of": tiny.ffn_dim,
        "n_heads": tiny.n_heads,
        "n_kv_heads": tiny.n_kv_heads,
        "n_layers": tiny.n_layers,
        "norm_eps": 1e-5,
        "vocab_size": -1,
    }


def write_meta(
    path: Path,
    tiny: Tiny | None = None,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    shards: int = 1,
    settings: Mapping[str, object] | None = None,
    tokenizer: bytes | None = None,
    split_dims: Mapping[str, int] = SPLIT_DIMS,
) -> Path:
    tiny = tiny or Tiny()
    path.mkdir(parents=True, exist_ok=True)
    (path / "params.json").write_text(json.dumps(params(tiny) | dict(settings or {})))
    (path / "tokenizer.model").write_bytes(TOKENIZER.read_bytes() if tokenizer is None else tokenizer)
    tensors = tensors or weights(tiny)
    for rank in range(shards):
        part = shard(tensors, rank, shards, split_dims) | {"rope.freqs": torch.zeros(tiny.head_dim // 2)}
        torch.save(part, path / f"consolidated.{rank:02}.pth")
    return path


def tiktoken_vocabulary(words: Sequence[str] = ("he", "ll", "hell", "hello", " w", "or", " wor", " world")) -> bytes:
    """A tiktoken file: all bytes, then a few longer tokens."""
    tokens = [bytes([n]) for n in range(256)] + [word.encode() for word in words]
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


# Hugging Face

_HF_LAYER = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def hf_tensors(tensors: Mapping[str, Tensor], tiny: Tiny) -> dict[str, Tensor]:
    named = {
        "model.embed_tokens.weight": tensors["tok_embeddings.weight"],
        "model.norm.weight": tensors["norm.weight"],
        "lm_head.weight": tensors["output.weight"],
    }
    for n in range(tiny.n_layers):
        for meta, hf in _HF_LAYER.items():
            tensor = tensors[f"layers.{n}.{meta}.weight"]
            if meta in ("attention.wq", "attention.wk"):  # interleaved pairs to rotate_half order
                tensor = tensor.view(-1, tiny.head_dim // 2, 2, tiny.dim).transpose(1, 2).reshape(tensor.shape)
            named[f"model.layers.{n}.{hf}.weight"] = tensor.contiguous()
    return named


def hf_config(tiny: Tiny) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": tiny.dim,
        "intermediate_size": tiny.ffn_dim,
        "num_hidden_layers": tiny.n_layers,
        "num_attention_heads": tiny.n_heads,
        "num_key_value_heads": tiny.n_kv_heads,
        "vocab_size": tiny.vocab_size,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def write_huggingface(
    path: Path,
    tiny: Tiny | None = None,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    files: int = 1,
    config: Mapping[str, object] | None = None,
) -> Path:
    """With the golden SentencePiece vocabulary, in `files` safetensors files."""
    tiny = tiny or Tiny()
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(hf_config(tiny) | dict(config or {})))
    (path / "tokenizer.model").write_bytes(TOKENIZER.read_bytes())
    tensors = hf_tensors(tensors or weights(tiny), tiny)
    if files == 1:
        save_file(tensors, path / "model.safetensors")
        return path
    names = [f"model-{n + 1:05}-of-{files:05}.safetensors" for n in range(files)]
    file_of = {tensor: names[n % files] for n, tensor in enumerate(tensors)}
    for name in names:
        save_file({tensor: tensors[tensor] for tensor in tensors if file_of[tensor] == name}, path / name)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": file_of}))
    return path


# GGUF

_GGUF_LAYER = {
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "attention_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    if name.startswith("layers."):
        _, layer, kind = name.removesuffix(".weight").split(".", 2)
        return f"blk.{layer}.{_GGUF_LAYER[kind]}.weight"
    return {"tok_embeddings.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}.get(name, name)


def gguf_writer(path: Path, tiny: Tiny, architecture: str = "llama") -> gguf.GGUFWriter:
    """A writer with the metadata of a Llama, without a vocabulary."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(tiny.n_layers)
    writer.add_context_length(2048)
    writer.add_embedding_length(tiny.dim)
    writer.add_feed_forward_length(tiny.ffn_dim)
    writer.add_head_count(tiny.n_heads)
    writer.add_head_count_kv(tiny.n_kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(tiny.head_dim)
    return writer


def add_byte_vocabulary(writer: gguf.GGUFWriter, size: int, pre: str = "gpt-2") -> None:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    alphabet = [chr(n) if n in printable else chr(next(others)) for n in range(256)]
    words = ["<|im_start|>", "<|im_end|>", *alphabet, "he", "ll", "hell"]
    filler = [f"<|unused_{n}|>" for n in range(size - len(words))]
    tokens = [*words, *filler]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *[1] * (len(words) - 2), *[3] * len(filler)])
    writer.add_token_merges(["h e", "l l", "he ll"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


def write_gguf(
    path: Path,
    tiny: Tiny | None = None,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    architecture: str = "llama",
    pre: str = "gpt-2",
) -> Path:
    tiny = tiny or Tiny()
    writer = gguf_writer(path, tiny, architecture)
    add_byte_vocabulary(writer, tiny.vocab_size, pre)
    for name, tensor in (tensors or weights(tiny)).items():
        values = tensor.float().numpy()
        if values.ndim == 1 or kind is gguf.GGMLQuantizationType.F32:
            writer.add_tensor(gguf_name(name), values)
        else:
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
    finish_gguf(writer)
    return path


def finish_gguf(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# Reading back


def read_all(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    tensors = {}
    for name, shape in tensor_shapes(checkpoint.spec).items():
        tensors[name] = torch.empty(shape, dtype=dtype)
        checkpoint.copy_into(name, tensors[name])
    return tensors


def logits(checkpoint: Checkpoint, ids: Sequence[int]) -> Tensor:
    """Logits of every position, from our model in float32 with dense attention."""
    config = EngineConfig(
        torch.device("cpu"), torch.float32, max_num_seqs=1, max_context=len(ids), max_prefill_tokens=len(ids)
    )
    model = load_model(config, checkpoint)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        q, k, v = (x.transpose(0, 1) for x in (q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return mixed.transpose(0, 1).reshape(len(ids), -1)

    with torch.inference_mode():
        return model.logits(model(torch.tensor(ids), torch.arange(len(ids)), attend))
