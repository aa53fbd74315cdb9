"""Meta's own layout: `params.json`, `consolidated.NN.pth`, `tokenizer.model`, for Llama 2 and Llama 3.

The shards are the slices of the model-parallel ranks that Meta trained or published with; that is a fact about the
files, not about us. Each tensor is put together from its shards' rectangles, so any number of ranks can read it.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoint.files import Settings, check_heads, read_bytes, read_json
from engine.checkpoint.pickled import locate, read_shard
from engine.checkpoint.spec import Chat, ModelSpec, RopeScaling, tensor_shapes
from engine.checkpoint.store import Part, Stored, StoredCheckpoint
from engine.errors import ConfigError
from engine.tokenizers.base import Tokenizer
from engine.tokenizers.sentencepiece import SentencePieceTokenizer
from engine.tokenizers.tiktoken import TiktokenTokenizer, looks_like_tiktoken

_SHARD = re.compile(r"consolidated\.(\d\d)\.pth")
_SETTINGS = {
    "dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier", "norm_eps",
    "rope_theta", "use_scaled_rope", "rope_scaling_factor", "low_freq_factor", "high_freq_factor",
    "original_rotary_embed", "max_batch_size", "max_seq_len",
}  # fmt: skip
# Where the ranks cut each matrix: Column- and RowParallelLinear. Embeddings changed between Llama 2 and 3.
CUT = {"wq": 0, "wk": 0, "wv": 0, "w1": 0, "w3": 0, "output": 0, "wo": 1, "w2": 1}
_CONTEXT_LLAMA2, _CONTEXT_LLAMA3, _CONTEXT_LLAMA31 = 4096, 8192, 131072


def open_meta(path: Path, tokenizer: Path | None = None) -> StoredCheckpoint:
    settings = Settings(path / "params.json", read_json(path / "params.json"))
    files = _shard_files(path)
    tokenizer_path = tokenizer or _tokenizer_path(path)
    vocabulary = read_bytes(tokenizer_path)
    chat: Chat = "llama3" if looks_like_tiktoken(vocabulary) else "llama2"
    shards = [read_shard(file) for file in files]
    spec = _spec(settings, files, shards, chat)
    tensors = _tensors(spec, files, shards)

    def make_tokenizer() -> Tokenizer:
        if chat == "llama3":
            return TiktokenTokenizer(vocabulary, where=tokenizer_path)
        return SentencePieceTokenizer(vocabulary, where=tokenizer_path)

    checkpoint = StoredCheckpoint(path, spec, tensors, make_tokenizer)
    pieces = checkpoint.tokenizer().vocab_size
    if pieces != spec.vocab_size:
        raise ConfigError(
            tokenizer_path, expected=f"a vocabulary of {spec.vocab_size}, as the weights have", found=f"one of {pieces}"
        )
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
    for directory in (path, path.parent):  # Meta's download script puts it beside the checkpoints
        if (directory / "tokenizer.model").is_file():
            return directory / "tokenizer.model"
    raise ConfigError(path, expected="tokenizer.model in it or beside it", found="neither")


def _spec(settings: Settings, files: Sequence[Path], shards: Sequence[Mapping[str, Tensor]], chat: Chat) -> ModelSpec:
    unknown = sorted(settings.values.keys() - _SETTINGS)
    if unknown:
        raise ConfigError(settings.where, expected="the settings of a Llama 2 or 3", found=f"{unknown[0]!r} besides")
    dim, n_heads = settings.integer("dim"), settings.integer("n_heads")
    n_kv_heads = settings.integer("n_kv_heads", n_heads)
    if dim % n_heads:
        raise ConfigError(settings.where, expected="dim divisible by n_heads", found=f"{dim} and {n_heads}")
    check_heads(settings.where, dim, n_heads, n_kv_heads, dim // n_heads)
    _check_shard_count(files, shards, dim)
    frequencies = shards[0].get("rope.freqs")  # one for each pair of a head's dimensions
    if frequencies is not None and 2 * frequencies.numel() != dim // n_heads:
        expected = f"heads of {2 * frequencies.numel()}, as the weights have"
        raise ConfigError(settings.where, expected=expected, found=f"n_heads {n_heads}: heads of {dim // n_heads}")
    embeddings = _matrix(shards, files, "tok_embeddings.weight")
    vocab_size = sum(e.shape[0] for e in embeddings) if embeddings[0].shape[1] == dim else embeddings[0].shape[0]
    declared = settings.integer("vocab_size", -1, least=-1)
    if declared not in (-1, vocab_size):
        raise ConfigError(
            settings.where, expected=f"vocab_size {vocab_size}, as the weights have", found=f"vocab_size {declared}"
        )
    return ModelSpec(
        format="meta",
        chat=chat,
        dim=dim,
        n_layers=settings.integer("n_layers"),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=dim // n_heads,
        ffn_dim=_ffn_dim(
            settings, dim, sum(w.shape[0] for w in _matrix(shards, files, "layers.0.feed_forward.w1.weight"))
        ),
        vocab_size=vocab_size,
        norm_eps=settings.number("norm_eps"),
        rope_theta=settings.number("rope_theta", 10000.0),
        rope_scaling=_rope_scaling(settings),
        max_context=_context(settings, chat),
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
    """The query rows of all shards make up dim; if they do not, shards at the end are missing or too many."""
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


def _ffn_dim(settings: Settings, dim: int, found: int) -> int:
    """Meta's rule: two thirds of 4 dim, times a factor, rounded up; the weights must agree."""
    hidden = int(2 * (4 * dim) / 3)
    if settings.has("ffn_dim_multiplier"):
        hidden = int(settings.number("ffn_dim_multiplier") * hidden)
    multiple = settings.integer("multiple_of", 256)
    hidden = multiple * -(-hidden // multiple)
    if hidden != found:
        raise ConfigError(
            settings.where, expected=f"a feed-forward size of {found}, as the weights have", found=f"{hidden}"
        )
    return hidden


def _rope_scaling(settings: Settings) -> RopeScaling | None:
    if not settings.flag("use_scaled_rope"):
        return None
    return RopeScaling(
        factor=settings.number("rope_scaling_factor", 8.0),
        low_freq_factor=settings.number("low_freq_factor", 1.0),
        high_freq_factor=settings.number("high_freq_factor", 4.0),
        original_context=settings.integer("original_rotary_embed", _CONTEXT_LLAMA3),
    )


def _context(settings: Settings, chat: Chat) -> int:
    """The files do not say; the length that each family was trained for."""
    if settings.has("max_seq_len"):
        return settings.integer("max_seq_len")
    if chat == "llama2":
        return _CONTEXT_LLAMA2
    return _CONTEXT_LLAMA31 if settings.flag("use_scaled_rope") else _CONTEXT_LLAMA3


def _tensors(spec: ModelSpec, files: Sequence[Path], shards: Sequence[Mapping[str, Tensor]]) -> dict[str, Stored]:
    shapes = tensor_shapes(spec)
    for file, shard in zip(files, shards, strict=True):
        names = shard.keys() - {"rope.freqs"}  # a table that every reader computes for itself
        for name in sorted(shapes.keys() - names):
            raise ConfigError(file, expected=f"the tensor {name}", found="none of that name")
        for name in sorted(names - shapes.keys()):
            raise ConfigError(file, expected=f"the tensors of a {spec.n_layers}-layer Llama", found=f"{name} besides")
    places = [locate(file, shard) for file, shard in zip(files, shards, strict=True)]
    return {name: _stored(name, shape, files, shards, places) for name, shape in shapes.items()}


def _stored(
    name: str,
    shape: tuple[int, ...],
    files: Sequence[Path],
    shards: Sequence[Mapping[str, Tensor]],
    places: Sequence[Mapping[str, Part]],
) -> Stored:
    tensors = [shard[name] for shard in shards]
    cut = CUT.get(name.split(".")[-2])
    if name == "tok_embeddings.weight":
        cut = 0 if tensors[0].dim() == 2 and tensors[0].shape[1] == shape[1] else 1
    if cut is None:  # replicated: every shard has all of it, the first one's is read
        tensors, places = tensors[:1], places[:1]
    for file, tensor in zip(files, tensors, strict=False):
        if tensor.dim() != len(shape) or any(tensor.shape[d] != shape[d] for d in range(len(shape)) if d != cut):
            raise _wrong_shape(file, name, tensor, shape, cut, len(tensors))
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise ConfigError(file, expected=f"{name} in float32, float16 or bfloat16", found=str(tensor.dtype))
    if cut is None:
        return Stored((places[0][name],), files[0])
    ends = list(accumulate(tensor.shape[cut] for tensor in tensors))
    if ends[-1] != shape[cut]:
        raise _wrong_shape(files[-1], name, tensors[-1], shape, cut, len(tensors))
    starts = [0, *ends[:-1]]
    parts = (
        Part(place[name].data, row=0 if cut else start, col=start if cut else 0)
        for place, start in zip(places, starts, strict=True)
    )
    return Stored(tuple(parts), files[0])


def _wrong_shape(
    file: Path, name: str, tensor: Tensor, shape: tuple[int, ...], cut: int | None, shards: int
) -> ConfigError:
    want = [size // shards if d == cut else size for d, size in enumerate(shape)]
    return ConfigError(file, expected=f"{name} of shape {want}", found=f"{list(tensor.shape)}")
