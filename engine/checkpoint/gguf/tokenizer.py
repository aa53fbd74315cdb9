"""Builds the tokenizer of a GGUF file from its tables of tokens, types, merges and scores."""

from typing import TypeVar

from engine.checkpoint.files import ConfigReader
from engine.checkpoint.gguf.container import GgufFile
from engine.checkpoint.spec import ChatFamily
from engine.errors import ConfigError
from engine.tokenizers.base import Tokenizer
from engine.tokenizers.bpe import byte_level
from engine.tokenizers.ordinary import looks_like_control
from engine.tokenizers.sentencepiece import SentencePieceTokenizer
from engine.tokenizers.sentencepiece_model import model_bytes

T = TypeVar("T", str, int, float)

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # SentencePiece's piece types
# Tokens that end a reply in a chat family, besides the end-of-text token that the file names.
_STOPS = {"chatml": ("<|im_end|>", "<|endoftext|>"), "llama3": ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")}


def make_tokenizer(file: GgufFile, chat: ChatFamily) -> Tokenizer:
    """The tokenizer of kind "gpt2" (byte-level BPE) or "llama" (SentencePiece); ConfigError if its tables are wrong."""
    metadata = ConfigReader(file.path, dict(file.metadata))
    tokens = _table(file, "tokens", str)
    types = _table(file, "token_type", int) if "tokenizer.ggml.token_type" in file.metadata else [_NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise ConfigError(file.path, expected=f"{len(tokens)} token types", found=f"{len(types)}")
    bos = metadata.integer("tokenizer.ggml.bos_token_id", 1, minimum=0)
    eos = metadata.integer("tokenizer.ggml.eos_token_id", 2, minimum=0)
    if max(bos, eos) >= len(tokens):
        raise ConfigError(file.path, expected=f"token ids below {len(tokens)}", found=f"{max(bos, eos)}")
    ids = {token: i for i, token in enumerate(tokens)}
    stops = frozenset(ids[name] for name in _STOPS.get(chat, ()) if name in ids) | {
        metadata.integer(f"tokenizer.ggml.{kind}_token_id", eos, minimum=0) for kind in ("eot", "eom")
    }
    kind = metadata.text("tokenizer.ggml.model")
    if kind == "gpt2":
        controls = {token: i for i, token in enumerate(tokens) if _is_control(token, types[i])}
        merges = [tuple(merge.split(" ", 1)) for merge in _table(file, "merges", str)]
        if any(len(merge) != 2 for merge in merges):
            raise ConfigError(file.path, expected="merges of two tokens each", found="one that is none")
        pre_tokenizer = metadata.text("tokenizer.ggml.pre") or "gpt-2"
        pairs = [(merge[0], merge[-1]) for merge in merges]
        return byte_level(
            tokens, pairs, controls, pre_tokenizer, bos_id=bos, eos_id=eos, stop_ids=stops, source=file.path
        )
    if kind == "llama":
        scores = _table(file, "scores", float)
        if len(scores) != len(tokens):
            raise ConfigError(file.path, expected=f"{len(tokens)} scores", found=f"{len(scores)}")
        prefix = metadata.flag("tokenizer.ggml.add_space_prefix", True)
        model = model_bytes(tokens, scores, types, bos_id=bos, eos_id=eos, add_space_prefix=prefix)
        return SentencePieceTokenizer(model, source=file.path, stop_ids=stops)
    raise ConfigError(file.path, expected="a tokenizer of kind gpt2 or llama", found=f"{kind}")


def _is_control(token: str, kind: int) -> bool:
    return kind in (_UNKNOWN, _CONTROL) or (kind == _USER_DEFINED and looks_like_control(token))


def _table(file: GgufFile, name: str, kind: type[T]) -> list[T]:
    """The list tokenizer.ggml.`name`; ConfigError unless all its elements are of type `kind`."""
    values = file.metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(values, list) or not values:
        raise ConfigError(file.path, expected=f"the table tokenizer.ggml.{name}", found="none")
    table = [value for value in values if isinstance(value, kind)]
    if len(table) != len(values):
        raise ConfigError(file.path, expected=f"tokenizer.ggml.{name} of {kind.__name__}", found="other values")
    return table
