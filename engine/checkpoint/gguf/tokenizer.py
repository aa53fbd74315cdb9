"""Builds the tokenizer of a GGUF file from its tables of tokens, types, merges and scores."""

from typing import TypeVar

from engine.checkpoint.chat_families import STOP_NAMES
from engine.checkpoint.files import ConfigReader
from engine.checkpoint.gguf.container import GgufFile
from engine.checkpoint.spec import ChatFamily
from engine.errors import ConfigError
from engine.tokenizers.base import Tokenizer
from engine.tokenizers.bpe import byte_level
from engine.tokenizers.pre_tokenizers import pre_tokenization
from engine.tokenizers.sentencepiece import SentencePieceTokenizer
from engine.tokenizers.sentencepiece_model import model_bytes
from engine.tokenizers.token_roles import BYTE, NORMAL, token_roles, types_by_name

T = TypeVar("T", str, int, float)

_NO_TOKEN = (-1, 2**32 - 1)  # what converters write as the id of a token that the vocabulary lacks
_MAX_SCORE = 3e38


def make_tokenizer(file: GgufFile, chat: ChatFamily) -> Tokenizer:
    """The tokenizer of kind "gpt2" (byte-level BPE) or "llama" (SentencePiece); ConfigError if its tables are wrong."""
    metadata = ConfigReader(file.path, dict(file.metadata))
    kind = metadata.text("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise ConfigError(file.path, expected="a tokenizer of kind gpt2 or llama", found=f"{kind}")
    tokens = _table(file, "tokens", str)
    types = _table(file, "token_type", int) if "tokenizer.ggml.token_type" in file.metadata else types_by_name(tokens)
    # Converters also write 0, "undefined"; SentencePiece knows no others than these.
    types = [kind if NORMAL <= kind <= BYTE else NORMAL for kind in types]
    if len(types) != len(tokens):
        raise ConfigError(file.path, expected=f"{len(tokens)} token types", found=f"{len(types)}")
    # Llama 2's ids are the default for its kind, as in llama.cpp; other kinds have none.
    bos = _special(metadata, "bos", 1 if kind == "llama" else None, len(tokens))
    eos = _special(metadata, "eos", 2 if kind == "llama" else None, len(tokens))
    ids = {token: i for i, token in reversed(list(enumerate(tokens)))}
    named = [ids[name] for name in STOP_NAMES[chat] if name in ids]
    if eos is None:
        if not named:
            raise ConfigError(file.path, expected="tokenizer.ggml.eos_token_id", found="none")
        eos = named[0]
    ends = (_special(metadata, end, None, len(tokens)) for end in ("eot", "eom"))
    stops = frozenset([*named, eos, *(i for i in ends if i is not None)])
    if kind == "gpt2":
        return _byte_level(file, metadata, tokens, types, bos, eos, stops)
    scores = _table(file, "scores", float)
    if len(scores) != len(tokens):
        raise ConfigError(file.path, expected=f"{len(tokens)} scores", found=f"{len(scores)}")
    if bad := next((score for score in scores if not abs(score) <= _MAX_SCORE), None):
        raise ConfigError(file.path, expected="finite scores of 32 bits", found=f"{bad}")
    prefix = metadata.flag("tokenizer.ggml.add_space_prefix", True)
    return SentencePieceTokenizer(
        model_bytes(tokens, scores, types, bos_id=bos, eos_id=eos, add_space_prefix=prefix),
        source=file.path,
        bos_id=bos,
        eos_id=eos,
        stop_ids=stops,
        adds_bos=metadata.flag("tokenizer.ggml.add_bos_token", True),
    )


def _byte_level(
    file: GgufFile,
    metadata: ConfigReader,
    tokens: list[str],
    types: list[int],
    bos: int | None,
    eos: int,
    stops: frozenset[int],
) -> Tokenizer:
    merges = [merge.split(" ", 1) for merge in _table(file, "merges", str)]
    if any(len(merge) != 2 for merge in merges):
        raise ConfigError(file.path, expected="merges of two tokens each", found="one that is none")
    words = pre_tokenization(metadata.text("tokenizer.ggml.pre"), tokens, file.path)
    return byte_level(
        tokens,
        [(merge[0], merge[-1]) for merge in merges],
        token_roles(tokens, types, reserved=[*stops, *([] if bos is None else [bos])], byte_level=True),
        words,
        bos_id=bos,
        eos_id=eos,
        stop_ids=stops,
        adds_bos=metadata.flag("tokenizer.ggml.add_bos_token", words.adds_bos),
        source=file.path,
    )


def _special(metadata: ConfigReader, name: str, default: int | None, size: int) -> int | None:
    """The id tokenizer.ggml.`name`_token_id, `default` if it is missing; None where the file says "no token"."""
    key = f"tokenizer.ggml.{name}_token_id"
    if not metadata.has(key):
        return default if default is None or default < size else None
    value = metadata.integer(key, minimum=-1)
    if value in _NO_TOKEN:
        return None
    if value >= size:
        raise ConfigError(metadata.source, expected=f"{key} below {size}", found=f"{value}")
    return value


def _table(file: GgufFile, name: str, kind: type[T]) -> list[T]:
    """The list tokenizer.ggml.`name`; ConfigError unless all its elements are of type `kind`."""
    values = file.metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(values, list) or not values:
        raise ConfigError(file.path, expected=f"the table tokenizer.ggml.{name}", found="none")
    table = [value for value in values if isinstance(value, kind)]
    if len(table) != len(values):
        raise ConfigError(file.path, expected=f"tokenizer.ggml.{name} of {kind.__name__}", found="other values")
    try:
        "".join(value for value in values if isinstance(value, str)).encode()
    except UnicodeEncodeError as error:
        expected = f"tokenizer.ggml.{name} in UTF-8"
        raise ConfigError(
            file.path, expected=expected, found=f"byte 0x{ord(error.object[error.start]) & 255:02x}"
        ) from error
    return table
