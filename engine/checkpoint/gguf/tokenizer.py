"""The tokenizer inside a GGUF file, from its tables of tokens, types, merges and scores."""

from typing import TypeVar

from engine.checkpoint.files import Settings
from engine.checkpoint.gguf.container import GgufFile
from engine.checkpoint.spec import Chat
from engine.errors import ConfigError
from engine.tokenizers.base import Tokenizer
from engine.tokenizers.bpe import byte_level
from engine.tokenizers.ordinary import looks_like_control
from engine.tokenizers.sentencepiece import SentencePieceTokenizer
from engine.tokenizers.sentencepiece_model import model_bytes

T = TypeVar("T", str, int, float)

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # the same numbers as SentencePiece's
# Texts after which a model of a family has said what it had to say, besides its own end-of-text token.
_STOPS = {"chatml": ("<|im_end|>", "<|endoftext|>"), "llama3": ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")}


def make_tokenizer(file: GgufFile, chat: Chat) -> Tokenizer:
    settings = Settings(file.path, dict(file.values))
    tokens = _table(file, "tokens", str)
    types = _table(file, "token_type", int) if "tokenizer.ggml.token_type" in file.values else [1] * len(tokens)
    if len(types) != len(tokens):
        raise ConfigError(file.path, expected=f"{len(tokens)} token types", found=f"{len(types)}")
    bos = settings.integer("tokenizer.ggml.bos_token_id", 1, least=0)
    eos = settings.integer("tokenizer.ggml.eos_token_id", 2, least=0)
    if max(bos, eos) >= len(tokens):
        raise ConfigError(file.path, expected=f"token ids below {len(tokens)}", found=f"{max(bos, eos)}")
    ids = {token: i for i, token in enumerate(tokens)}
    stops = frozenset(ids[name] for name in _STOPS.get(chat, ()) if name in ids) | {
        settings.integer(f"tokenizer.ggml.{kind}_token_id", eos, least=0) for kind in ("eot", "eom")
    }
    kind = settings.text("tokenizer.ggml.model")
    if kind == "gpt2":
        controls = {token: i for i, token in enumerate(tokens) if _is_control(token, types[i])}
        merges = [tuple(merge.split(" ", 1)) for merge in _table(file, "merges", str)]
        if any(len(merge) != 2 for merge in merges):
            raise ConfigError(file.path, expected="merges of two tokens each", found="one that is none")
        words = settings.text("tokenizer.ggml.pre") or "gpt-2"
        pairs = [(merge[0], merge[-1]) for merge in merges]
        return byte_level(tokens, pairs, controls, words, bos_id=bos, eos_id=eos, stop_ids=stops, where=file.path)
    if kind == "llama":
        scores = _table(file, "scores", float)
        if len(scores) != len(tokens):
            raise ConfigError(file.path, expected=f"{len(tokens)} scores", found=f"{len(scores)}")
        prefix = settings.flag("tokenizer.ggml.add_space_prefix", True)
        model = model_bytes(tokens, scores, types, bos_id=bos, eos_id=eos, add_space_prefix=prefix)
        return SentencePieceTokenizer(model, where=file.path, stop_ids=stops)
    raise ConfigError(file.path, expected="a tokenizer of kind gpt2 or llama", found=f"{kind}")


def _is_control(token: str, kind: int) -> bool:
    return kind in (_UNKNOWN, _CONTROL) or (kind == _USER_DEFINED and looks_like_control(token))


def _table(file: GgufFile, name: str, kind: type[T]) -> list[T]:
    values = file.values.get(f"tokenizer.ggml.{name}")
    if not isinstance(values, list) or not values:
        raise ConfigError(file.path, expected=f"the table tokenizer.ggml.{name}", found="none")
    table = [value for value in values if isinstance(value, kind)]
    if len(table) != len(values):
        raise ConfigError(file.path, expected=f"tokenizer.ggml.{name} of {kind.__name__}", found="other values")
    return table
