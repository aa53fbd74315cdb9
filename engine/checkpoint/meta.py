"""Meta's own layout: `params.json`, `consolidated.NN.pth`, `tokenizer.model`, for Llama 2 and Llama 3.

Each shard holds the slices of one model-parallel rank of Meta's. Their number says nothing about ours: a tensor is
assembled from the rectangles in its shards, so any number of ranks can read any slice.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoint.architecture import Llama3Scaling
from engine.checkpoint.files import MAX_CONTEXT, ConfigReader, check_heads, read_bytes, read_json
from engine.checkpoint.pickled import locate_tensors, read_shard
from engine.checkpoint.rope import check_rope_scaling
from engine.checkpoint.spec import ChatFamily, ModelSpec, tensor_shapes
from engine.checkpoint.store import StoredCheckpoint, StoredTensor, TensorPart
from engine.checkpoint.tensor_names import check_tensor_names
from engine.errors import ConfigError
from engine.tokenizers.base import Tokenizer
from engine.tokenizers.sentencepiece import SentencePieceTokenizer
from engine.tokenizers.tiktoken import TiktokenTokenizer, looks_like_tiktoken

_SHARD = re.compile(r"consolidated\.(\d\d)\.pth")
_KNOWN_PARAMS = {
    "dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier", "norm_eps",
    "rope_theta", "use_scaled_rope", "rope_scaling_factor", "low_freq_factor", "high_freq_factor",
    "original_rotary_embed", "max_batch_size", "max_seq_len",
}  # fmt: skip
# The dimension along which Meta's ranks split each matrix: 0 for ColumnParallelLinear, 1 for RowParallelLinear. The
# embedding is split along 1 in Llama 2 and along 0 in Llama 3.
SPLIT_DIM = {"wq": 0, "wk": 0, "wv": 0, "w1": 0, "w3": 0, "output": 0, "wo": 1, "w2": 1}
_DIMS_LLAMA32 = (2048, 3072)  # 1B and 3B, and what was pruned from them
_ROPE_FACTOR_LLAMA31, _ROPE_FACTOR_LLAMA32 = 8.0, 32.0
_CONTEXT_LLAMA2, _CONTEXT_LLAMA3, _CONTEXT_LLAMA31 = 4096, 8192, 131072


def open_meta(path: Path, tokenizer: Path | None = None) -> StoredCheckpoint:
    """Open a directory in Meta's layout; ConfigError if its files are damaged or do not belong together.

    `tokenizer` defaults to `tokenizer.model` in the directory or its parent.
    """
    params = ConfigReader(path / "params.json", read_json(path / "params.json"))
    files = _shard_files(path)
    tokenizer_path = tokenizer or _tokenizer_path(path)
    vocabulary = read_bytes(tokenizer_path)
    chat: ChatFamily = "llama3" if looks_like_tiktoken(vocabulary) else "llama2"
    shards = [read_shard(file) for file in files]
    spec = _spec(params, files, shards, chat)
    tensors = _tensors(spec, files, shards)

    def make_tokenizer() -> Tokenizer:
        if chat == "llama3":
            llama31 = params.flag("use_scaled_rope")
            return TiktokenTokenizer(vocabulary, source=tokenizer_path, llama31=llama31)
        return SentencePieceTokenizer(vocabulary, source=tokenizer_path)

    checkpoint = StoredCheckpoint(path, spec, tensors, make_tokenizer)
    checkpoint.fit_vocabulary(tokenizer_path)
    return checkpoint


def _shard_files(path: Path) -> list[Path]:
    numbered = {int(match[1]): file for file in path.iterdir() if (match := _SHARD.fullmatch(file.name))}
    if not numbered:
        raise ConfigError(path, expected="consolidated.00.pth", found="no consolidated.NN.pth at all")
    for n in range(max(numbered) + 1):
        if n not in numbered:
            raise ConfigError(path, expected=f"consolidated.{n:02}.pth", found=f"shards {sorted(numbered)} without it")
    return [numbered[n] for n in sorted(numbered)]


def _tokenizer_path(path: Path) -> Path:
    for directory in (path, path.parent):  # Meta's download script puts it in the parent directory
        if (directory / "tokenizer.model").is_file():
            return directory / "tokenizer.model"
    raise ConfigError(path, expected="tokenizer.model in it or beside it", found="neither")


def _spec(
    params: ConfigReader, files: Sequence[Path], shards: Sequence[Mapping[str, Tensor]], chat: ChatFamily
) -> ModelSpec:
    unknown = sorted(params.values.keys() - _KNOWN_PARAMS)
    if unknown:
        raise ConfigError(params.source, expected="the settings of a Llama 2 or 3", found=f"{unknown[0]!r} besides")
    dim, n_heads = params.integer("dim"), params.integer("n_heads")
    n_kv_heads = params.integer("n_kv_heads", n_heads)
    if dim % n_heads:
        raise ConfigError(params.source, expected="dim divisible by n_heads", found=f"{dim} and {n_heads}")
    check_heads(params.source, dim, n_heads, n_kv_heads, dim // n_heads)
    _check_shard_count(files, shards, dim)
    frequencies = shards[0].get("rope.freqs")  # [head_dim / 2]
    if frequencies is not None and 2 * frequencies.numel() != dim // n_heads:
        expected = f"heads of {2 * frequencies.numel()}, as the weights have"
        raise ConfigError(params.source, expected=expected, found=f"n_heads {n_heads}: heads of {dim // n_heads}")
    embeddings = _matrix(shards, files, "tok_embeddings.weight")
    vocab_size = sum(e.shape[0] for e in embeddings) if embeddings[0].shape[1] == dim else embeddings[0].shape[0]
    declared = params.integer("vocab_size", -1, minimum=-1)
    if declared not in (-1, vocab_size):
        raise ConfigError(
            params.source, expected=f"vocab_size {vocab_size}, as the weights have", found=f"vocab_size {declared}"
        )
    return ModelSpec(
        format="meta",
        chat=chat,
        dim=dim,
        n_layers=params.integer("n_layers"),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=dim // n_heads,
        ffn_dim=_ffn_dim(
            params, dim, sum(w.shape[0] for w in _matrix(shards, files, "layers.0.feed_forward.w1.weight"))
        ),
        vocab_size=vocab_size,
        norm_eps=params.number("norm_eps"),
        rope_theta=params.number("rope_theta", 10000.0),
        rope_scaling=_rope_scaling(params),
        max_context=_context(params, chat),
        tied_embeddings=False,
        dtype=_matrix(shards, files, "layers.0.attention.wq.weight")[0].dtype,
        shards=len(files),
    )


def _matrix(shards: Sequence[Mapping[str, Tensor]], files: Sequence[Path], name: str) -> list[Tensor]:
    for shard, file in zip(shards, files, strict=True):
        if name not in shard or shard[name].dim() != 2:
            raise ConfigError(file, expected=f"a matrix {name}", found="none")
    return [shard[name] for shard in shards]


def _check_shard_count(files: Sequence[Path], shards: Sequence[Mapping[str, Tensor]], dim: int) -> None:
    """ConfigError unless the query rows of all shards add up to dim: else the last shards are missing, or extra."""
    queries = _matrix(shards, files, "layers.0.attention.wq.weight")
    if queries[0].shape[1] != dim:
        raise ConfigError(
            files[0].parent / "params.json", expected=f"dim {queries[0].shape[1]}, as the weights have", found=f"{dim}"
        )
    rows = [w.shape[0] for w in queries]
    if sum(rows) == dim:
        return
    if dim % rows[0] == 0 and set(rows) == {rows[0]}:
        raise ConfigError(
            files[0].parent, expected=f"{dim // rows[0]} shards (dim {dim} in rows of {rows[0]})", found=f"{len(files)}"
        )
    raise ConfigError(
        files[0], expected=f"{dim} rows of layers.0.attention.wq.weight over all shards", found=f"{sum(rows)}"
    )


def _ffn_dim(params: ConfigReader, dim: int, found: int) -> int:
    """Meta's formula: 2/3 of 4 dim, times ffn_dim_multiplier, rounded up to multiple_of. It must equal `found`."""
    hidden = int(2 * (4 * dim) / 3)
    if params.has("ffn_dim_multiplier"):
        hidden = int(params.number("ffn_dim_multiplier") * hidden)
    multiple = params.integer("multiple_of", 256)
    hidden = multiple * -(-hidden // multiple)
    if hidden != found:
        raise ConfigError(
            params.source, expected=f"a feed-forward size of {found}, as the weights have", found=f"{hidden}"
        )
    return hidden


def _rope_scaling(params: ConfigReader) -> Llama3Scaling | None:
    """Llama 3.1's settings. Meta's files of Llama 3.2 do not name its factor, so its two models are known by width.

    The vision models of Llama 3.2 are wider, as they contain a Llama 3.1.
    """
    if not params.flag("use_scaled_rope"):
        return None
    llama32 = params.integer("dim") in _DIMS_LLAMA32
    scaling = Llama3Scaling(
        factor=params.number("rope_scaling_factor", _ROPE_FACTOR_LLAMA32 if llama32 else _ROPE_FACTOR_LLAMA31),
        low_freq_factor=params.number("low_freq_factor", 1.0),
        high_freq_factor=params.number("high_freq_factor", 4.0),
        original_context=params.integer("original_rotary_embed", _CONTEXT_LLAMA3),
    )
    check_rope_scaling(params.source, scaling)
    return scaling


def _context(params: ConfigReader, chat: ChatFamily) -> int:
    """params.json does not usually say, so the context length that the family was trained with."""
    if params.has("max_seq_len"):
        return params.integer("max_seq_len", maximum=MAX_CONTEXT)
    if chat == "llama2":
        return _CONTEXT_LLAMA2
    return _CONTEXT_LLAMA31 if params.flag("use_scaled_rope") else _CONTEXT_LLAMA3


def _tensors(spec: ModelSpec, files: Sequence[Path], shards: Sequence[Mapping[str, Tensor]]) -> dict[str, StoredTensor]:
    for file, shard in zip(files, shards, strict=True):
        names = shard.keys() - {"rope.freqs"}  # a table that is computed instead
        check_tensor_names(file, spec, {name: name for name in names})
    shapes = tensor_shapes(spec)
    parts = [locate_tensors(file, shard) for file, shard in zip(files, shards, strict=True)]
    return {name: _stored_tensor(name, shape, files, shards, parts) for name, shape in shapes.items()}


def _stored_tensor(
    name: str,
    shape: tuple[int, ...],
    files: Sequence[Path],
    shards: Sequence[Mapping[str, Tensor]],
    parts: Sequence[Mapping[str, TensorPart]],
) -> StoredTensor:
    """One tensor of the model from its slices in the shards, whose shapes and dtypes are checked."""
    tensors = [shard[name] for shard in shards]
    split_dim = SPLIT_DIM.get(name.split(".")[-2])
    if name == "tok_embeddings.weight":
        split_dim = 0 if tensors[0].dim() == 2 and tensors[0].shape[1] == shape[1] else 1
    if split_dim is None:  # replicated in every shard; read from the first
        tensors, parts = tensors[:1], parts[:1]
    for file, tensor in zip(files, tensors, strict=False):
        if tensor.dim() != len(shape) or any(tensor.shape[d] != shape[d] for d in range(len(shape)) if d != split_dim):
            raise _wrong_shape(file, name, tensor, shape, split_dim, len(tensors))
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise ConfigError(file, expected=f"{name} in float32, float16 or bfloat16", found=str(tensor.dtype))
    if split_dim is None:
        return StoredTensor((parts[0][name],), files[0])
    ends = list(accumulate(tensor.shape[split_dim] for tensor in tensors))
    if ends[-1] != shape[split_dim]:
        raise _wrong_shape(files[-1], name, tensors[-1], shape, split_dim, len(tensors))
    starts = [0, *ends[:-1]]
    placed = (
        TensorPart(shard[name].source, row=0 if split_dim else start, col=start if split_dim else 0)
        for shard, start in zip(parts, starts, strict=True)
    )
    return StoredTensor(tuple(placed), files[0])


def _wrong_shape(
    file: Path, name: str, tensor: Tensor, shape: tuple[int, ...], split_dim: int | None, shards: int
) -> ConfigError:
    want = [size // shards if d == split_dim else size for d, size in enumerate(shape)]
    return ConfigError(file, expected=f"{name} of shape {want}", found=f"{list(tensor.shape)}")
