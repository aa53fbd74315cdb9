"""Byte-pair vocabularies run by the `tokenizers` library, and such a one made from bare tables (GGUF's "gpt2").

The library looks for added tokens in any text it encodes. Ours is built without them: control tokens exist only in
the table that `control` reads.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as Library
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Split

from engine.errors import ConfigError
from engine.tokenizers.base import DecodeRules, decode_all
from engine.tokenizers.ordinary import encode_ordinary

# Llama 3's way of cutting text before merging, a constant of its vocabulary.
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class BpeTokenizer:
    """`pieces` has one entry for each id of the vocabulary; control tokens are empty there and named in `controls`."""

    def __init__(
        self,
        library: Library,
        pieces: Sequence[bytes | str],
        controls: Mapping[str, int],
        rules: DecodeRules,
        *,
        bos_id: int | None,
        eos_id: int,
        stop_ids: frozenset[int],
    ) -> None:
        self._library, self._pieces, self._controls = library, pieces, dict(controls)
        self.rules, self.bos_id, self.eos_id = rules, bos_id, eos_id
        self.stop_ids = stop_ids | {eos_id}
        self.vocab_size = len(pieces)

    def encode(self, text: str) -> list[int]:
        return encode_ordinary(text, self._encode, self._controls)

    def _encode(self, text: str) -> list[int]:
        # `encode` holds Python's lock all the time, `encode_batch_fast` only while it makes the list of ids.
        ids: list[int] = self._library.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return decode_all(self, ids)

    def piece(self, token_id: int) -> bytes | str:
        return self._pieces[token_id] if 0 <= token_id < self.vocab_size else ""

    def control(self, name: str) -> int:
        return self._controls[name]


def byte_level(
    tokens: Sequence[str],
    merges: Sequence[tuple[str, str]],
    controls: Mapping[str, int],
    words: str,
    *,
    bos_id: int | None,
    eos_id: int,
    stop_ids: frozenset[int],
    where: str | Path,
) -> BpeTokenizer:
    """A byte-level tokenizer from bare tables; `words` names how text is cut before merging (GGUF's names)."""
    reserved = set(controls.values())
    vocabulary = {token: i for i, token in enumerate(tokens) if i not in reserved}
    cut, whole_words = _pre_tokenizer(words, where)
    try:
        library = Library(BPE(vocabulary, list(merges), ignore_merges=whole_words))
    except Exception as error:  # the library raises bare Exceptions
        raise ConfigError(where, expected="merges made of its own tokens", found=str(error)) from error
    library.pre_tokenizer = cut
    alphabet = byte_alphabet()
    pieces = [b"" if i in reserved else bytes_of(token, alphabet) for i, token in enumerate(tokens)]
    return BpeTokenizer(
        library, pieces, controls, DecodeRules("sequence"), bos_id=bos_id, eos_id=eos_id, stop_ids=stop_ids
    )


def _pre_tokenizer(words: str, where: str | Path) -> tuple[PreTokenizer, bool]:
    """The cut of that name, and whether a word that is itself a token skips the merges."""
    if words in {"gpt-2", "gpt2"}:
        return ByteLevel(add_prefix_space=False), False
    if words in {"smollm", "starcoder", "refact", "command-r"}:
        return pre_tokenizers.Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]), False
    if words in {"llama-bpe", "llama3", "llama-v3"}:
        cut = Split(Regex(LLAMA3_WORDS), "isolated")
        return pre_tokenizers.Sequence([cut, ByteLevel(add_prefix_space=False, use_regex=False)]), True
    raise ConfigError(where, expected="pre-tokenizer gpt-2, smollm or llama-bpe", found=words)


def byte_alphabet() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character; this is the way back.

    Printable Latin-1 stands for itself, the 68 other bytes take the characters from U+0100 on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


def bytes_of(token: str, alphabet: Mapping[str, int]) -> bytes:
    try:
        return bytes(alphabet[character] for character in token)
    except KeyError:  # a token outside the alphabet is plain text
        return token.encode()
