"""BPE through the `tokenizers` library, and byte-level BPE built from bare tables (GGUF's kind "gpt2").

The library finds added tokens in any text that it encodes. So its tokenizer is built without added tokens: control
tokens are only in the table that `control` reads.
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

# Llama 3's pre-tokenizer: the words within which merges happen (Meta's `pat_str`).
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class BpeTokenizer:
    """A `Tokenizer` over the library's BPE model.

    `pieces` has one entry for each id, empty for control tokens. `controls` maps their names to ids.
    """

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
        """See `Tokenizer.encode`."""
        return encode_ordinary(text, self._encode, self._controls)

    def _encode(self, text: str) -> list[int]:
        # `encode` holds Python's lock all the time, `encode_batch_fast` only while it makes the list of ids.
        ids: list[int] = self._library.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        return decode_all(self, ids)

    def piece(self, token_id: int) -> bytes | str:
        """See `Tokenizer.piece`."""
        return self._pieces[token_id] if 0 <= token_id < self.vocab_size else ""

    def control(self, name: str) -> int:
        """See `Tokenizer.control`."""
        return self._controls[name]


def byte_level(
    tokens: Sequence[str],
    merges: Sequence[tuple[str, str]],
    controls: Mapping[str, int],
    pre_tokenizer: str,
    *,
    bos_id: int | None,
    eos_id: int,
    stop_ids: frozenset[int],
    source: str | Path,
) -> BpeTokenizer:
    """Byte-level BPE from bare tables; `pre_tokenizer` is GGUF's name for the way text is split into words.

    ConfigError names `source` if the tables do not fit together or the pre-tokenizer is unknown.
    """
    reserved = set(controls.values())
    vocabulary = {token: i for i, token in enumerate(tokens) if i not in reserved}
    splitter, ignore_merges = _pre_tokenizer(pre_tokenizer, source)
    try:
        library = Library(BPE(vocabulary, list(merges), ignore_merges=ignore_merges))
    except Exception as error:  # the library raises bare Exceptions
        raise ConfigError(source, expected="merges made of its own tokens", found=str(error)) from error
    library.pre_tokenizer = splitter
    alphabet = byte_alphabet()
    pieces = [b"" if i in reserved else token_bytes(token, alphabet) for i, token in enumerate(tokens)]
    return BpeTokenizer(
        library, pieces, controls, DecodeRules("sequence"), bos_id=bos_id, eos_id=eos_id, stop_ids=stop_ids
    )


def _pre_tokenizer(name: str, source: str | Path) -> tuple[PreTokenizer, bool]:
    """The library's pre-tokenizer, and whether a word that is itself a token is encoded without merges."""
    if name in {"gpt-2", "gpt2"}:
        return ByteLevel(add_prefix_space=False), False
    if name in {"smollm", "starcoder", "refact", "command-r"}:
        return pre_tokenizers.Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]), False
    if name in {"llama-bpe", "llama3", "llama-v3"}:
        words = Split(Regex(LLAMA3_PATTERN), "isolated")
        return pre_tokenizers.Sequence([words, ByteLevel(add_prefix_space=False, use_regex=False)]), True
    raise ConfigError(source, expected="pre-tokenizer gpt-2, smollm or llama-bpe", found=name)


def byte_alphabet() -> dict[str, int]:
    """The byte for each character of byte-level BPE, which writes every byte as one printable character.

    Printable Latin-1 stands for itself; the 68 other bytes are U+0100 and up, in order (GPT-2's `bytes_to_unicode`).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


def token_bytes(token: str, alphabet: Mapping[str, int]) -> bytes:
    """The bytes of a byte-level BPE token; `alphabet` is `byte_alphabet()`."""
    try:
        return bytes(alphabet[character] for character in token)
    except KeyError:  # a token with other characters is plain text
        return token.encode()
