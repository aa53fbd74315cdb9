"""BPE through the `tokenizers` library, and byte-level BPE built from bare tables (GGUF's kind "gpt2").

The library finds added tokens in any text that it encodes. So its tokenizer is built without the names of control
tokens, which are only in the table that `control` reads: it knows each by a sentinel (`marked`). Added tokens that are
text (`<think>`) it does get.
"""

from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from tokenizers import AddedToken
from tokenizers import Tokenizer as Library
from tokenizers.models import BPE

from engine.errors import ConfigError
from engine.tokenizers.base import DecodeRules, decode_all
from engine.tokenizers.marked import ControlNames, encode_segments, sentinel, with_sentinels
from engine.tokenizers.ordinary import encode_ordinary, valid_unicode
from engine.tokenizers.pre_tokenizers import PreTokenization
from engine.tokenizers.token_roles import TokenRoles

# Without control characters and planes 4 to 15, for which SmolLM2's vocabulary has no tokens either.
_BYTES_OF_TEXT = frozenset([*b"\t\n\r", *range(0x20, 0x7F), *range(0x80, 0xC0), *range(0xC2, 0xF1)])


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
        padding_ids: frozenset[int],
        adds_bos: bool,
        marked: Mapping[str, int] | None = None,
    ) -> None:
        """`marked`: the control tokens that the library knows by their sentinels, if not all."""
        self._library, self._pieces, self.controls = library, pieces, dict(controls)
        self._names = ControlNames(self.controls if marked is None else marked)
        self.rules, self.bos_id, self.eos_id = rules, bos_id, eos_id
        self.adds_bos = adds_bos and bos_id is not None
        self.stop_ids, self.padding_ids = stop_ids | {eos_id}, padding_ids
        self.vocab_size = len(pieces)

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`."""
        return encode_ordinary(text, self._encode, self.controls)

    def encode_marked(self, text: str, trusted: bytes) -> list[int]:
        """See `Tokenizer.encode_marked`."""
        spans = list(self._names.spans(text, trusted))
        ids = self._encode(valid_unicode(with_sentinels(text, spans)))
        reserved = set(self.controls.values())
        if sum(map(reserved.__contains__, ids)) == len(spans):
            return ids
        # The vocabulary lists control tokens as ordinary pieces, too.
        return encode_segments(text, spans, self.encode)

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
        return self.controls[name]


def byte_level(
    tokens: Sequence[str],
    merges: Sequence[tuple[str, str]],
    roles: TokenRoles,
    words: PreTokenization,
    *,
    bos_id: int | None,
    eos_id: int,
    stop_ids: frozenset[int],
    adds_bos: bool,
    source: str | Path,
) -> BpeTokenizer:
    """Byte-level BPE from bare tables; `words` says how text is split before merges.

    ConfigError names `source` if the tables do not fit together.
    """
    controls, silent, not_encoded = roles.controls, set(roles.silent), set(roles.not_encoded)
    # Every byte has a token, so no text is unknown. Merges make Qwen's `<unk>`, which is a word of source code.
    if roles.unknown is not None and tokens[roles.unknown] not in {left + right for left, right in merges}:
        controls = {tokens[roles.unknown]: roles.unknown} | controls
        silent.add(roles.unknown)
        not_encoded.add(roles.unknown)
    vocabulary = {token: i for i, token in enumerate(tokens) if i not in not_encoded}
    sentinels = {sentinel(i): i for i in controls.values()}
    try:
        library = Library(BPE(vocabulary | sentinels, list(merges), ignore_merges=words.ignore_merges))
    except Exception as error:  # the library raises bare Exceptions
        raise ConfigError(source, expected="merges made of its own tokens", found=str(error)) from error
    library.pre_tokenizer = words.splitter
    if words.normalizer is not None:
        library.normalizer = words.normalizer
    library.add_tokens([AddedToken(tokens[i], normalized=False) for i in sorted(roles.user_defined)])
    library.add_special_tokens([AddedToken(name, normalized=False) for name in sentinels])
    alphabet = byte_alphabet()
    check_alphabet(vocabulary, source)
    pieces = [
        b"" if i in silent else token.encode() if i in roles.user_defined else token_bytes(token, alphabet)
        for i, token in enumerate(tokens)
    ]
    return BpeTokenizer(
        library,
        pieces,
        controls,
        DecodeRules("sequence"),
        bos_id=bos_id,
        eos_id=eos_id,
        stop_ids=stop_ids,
        padding_ids=roles.padding,
        adds_bos=adds_bos,
    )


def check_alphabet(vocabulary: Container[str], source: str | Path) -> None:
    """ConfigError if a byte of usual text has no token: the library would drop it without a word."""
    missing = [n for character, n in byte_alphabet().items() if n in _BYTES_OF_TEXT and character not in vocabulary]
    if missing:
        raise ConfigError(source, expected="a token for each byte", found=f"none for byte 0x{min(missing):02x}")


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
