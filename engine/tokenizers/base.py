"""The tokenizer interface, and incremental decoding.

`encode` never produces a control token, whatever the text. A chat format places them, by name or in text that its
template wrote (`encode_marked`). Decoding is defined here once, for complete replies and for streams: each id stands
for a piece, either bytes (possibly part of a character) or text. Control tokens decode to nothing. Knows no files and
no chat formats.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class DecodeRules:
    """How pieces become text, where tokenizer families differ.

    `replace`: an invalid UTF-8 sequence becomes one U+FFFD ("sequence", byte-level BPE) or one for each of its bytes
    ("byte", SentencePiece). `leading_space`: SentencePiece adds a space before the first word when encoding, and
    decoding removes one leading space ("once"), or all of them if the model removes extra whitespace ("all").
    """

    replace: Literal["sequence", "byte"]
    leading_space: Literal["keep", "once", "all"] = "keep"


class Tokenizer(Protocol):
    """A vocabulary: text to ids and back."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, control tokens included."""
        ...

    @property
    def bos_id(self) -> int | None:
        """The beginning-of-text token, if the vocabulary has one."""
        ...

    @property
    def adds_bos(self) -> bool:
        """Whether plain text begins with the beginning-of-text token, as the model's files say; false without one.

        A chat format decides for itself.
        """
        ...

    @property
    def eos_id(self) -> int:
        """The end-of-text token."""
        ...

    @property
    def stop_ids(self) -> frozenset[int]:
        """Every token that ends a reply; `eos_id` is one of them."""
        ...

    @property
    def padding_ids(self) -> frozenset[int]:
        """Ids that only fill the vocabulary up: no text becomes one, and none is ever sampled."""
        ...

    @property
    def rules(self) -> DecodeRules:
        """How this family's pieces become text."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of the text. A control token's name in the text is encoded as ordinary text."""

    def encode_marked(self, text: str, trusted: bytes) -> list[int]:
        """As `encode`, but names of control tokens whose characters all have a byte 1 in `trusted` become those tokens.

        The rest of the text is encoded as the model's own library does it between control tokens.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, without control tokens."""
        ...

    def piece(self, token_id: int) -> bytes | str:
        """What one id decodes to; empty for control tokens and for ids outside the vocabulary.

        Consecutive bytes are joined before they are decoded. A str, even an empty one, ends an incomplete character.
        """

    def control(self, name: str) -> int:
        """The id of a control token. KeyError if the vocabulary has none of that name."""

    @property
    def controls(self) -> Mapping[str, int]:
        """All control tokens: names to ids."""
        ...


class StreamDecoder:
    """Decodes a reply id by id. The texts returned, joined, equal `decode` of all ids."""

    def __init__(self, tokenizer: Tokenizer, *, after: int | None = None) -> None:
        """`after`: the id that precedes the reply, if the reply goes on in the middle of a text.

        Such a reply keeps a space at its beginning, which is otherwise the one that SentencePiece puts before a text.
        """
        self._tokenizer = tokenizer
        self._rules = tokenizer.rules
        self._pending = b""  # the first bytes of an incomplete character
        self._at_start = self._rules.leading_space != "keep"
        if after is not None:
            self.push(after)
            self.finish()

    def push(self, token_id: int) -> str:
        """The text that this id completes, which may be empty."""
        piece = self._tokenizer.piece(token_id)
        if isinstance(piece, bytes):
            text, self._pending = _decode_utf8(self._pending + piece, self._rules.replace, final=False)
        else:
            text = self.finish()
            if text:
                self._at_start = False
            if self._at_start and piece.startswith(" "):
                piece = piece[1:]
                self._at_start = self._rules.leading_space == "all"
            text += piece
        if text:
            self._at_start = False
        return text

    def finish(self) -> str:
        """The incomplete character at the end, as U+FFFD; empty if there is none."""
        text, self._pending = _decode_utf8(self._pending, self._rules.replace, final=True)
        return text


def decode_all(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """Text of the ids: `Tokenizer.decode` for any tokenizer that has `piece` and `rules`."""
    decoder = StreamDecoder(tokenizer)
    return "".join([*map(decoder.push, ids), decoder.finish()])


def _decode_utf8(data: bytes, replace: Literal["sequence", "byte"], *, final: bool) -> tuple[str, bytes]:
    """The text, and the bytes at the end that may be the start of a character (none if `final`)."""
    text = ""
    while data:
        try:
            return text + data.decode(), b""
        except UnicodeDecodeError as error:
            text += data[: error.start].decode()
            # Only the end of the data can be incomplete; every other error is permanent.
            if error.reason == "unexpected end of data" and not final:
                return text, data[error.start :]
            text += "\ufffd" * (error.end - error.start if replace == "byte" else 1)
            data = data[error.end :]
    return text, b""
