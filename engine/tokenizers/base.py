"""Text and token ids: the interface that the rest of the engine sees, and text from ids one id at a time.

A tokenizer encodes ordinary text only: no text can become a control token. Control tokens are asked for by name and
placed by the chat format. Decoding is defined here, once, for a whole reply and for a stream alike: every id stands
for a piece, either bytes (which may be part of a character) or text; control tokens stand for nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class DecodeRules:
    """How pieces become text, where the families differ.

    `replace`: a broken UTF-8 sequence becomes one U+FFFD ("sequence": byte-level BPE) or one for each of its bytes
    ("byte": SentencePiece). `leading_space`: SentencePiece puts a space before the first word and takes it off again
    ("once"); with whitespace removal it goes on taking until there is text ("all").
    """

    replace: Literal["sequence", "byte"]
    leading_space: Literal["keep", "once", "all"] = "keep"


class Tokenizer(Protocol):
    @property
    def vocab_size(self) -> int: ...

    @property
    def bos_id(self) -> int | None: ...

    @property
    def eos_id(self) -> int: ...

    @property
    def stop_ids(self) -> frozenset[int]: ...

    @property
    def rules(self) -> DecodeRules: ...

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text; what looks like a control token is ordinary text too."""

    def decode(self, ids: Sequence[int]) -> str: ...

    def piece(self, token_id: int) -> bytes | str:
        """What an id stands for; empty for control tokens and for ids that the vocabulary lacks.

        Bytes join with the bytes around them; text, even empty text, ends a character begun in bytes.
        """

    def control(self, name: str) -> int:
        """The id of a control token. KeyError if the vocabulary has none of that name."""


class StreamDecoder:
    """Text of a growing reply. What was pushed, joined, equals `decode` of all ids at once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._rules = tokenizer.rules
        self._pending = b""  # the beginning of a character whose other bytes have not come yet
        self._at_start = self._rules.leading_space != "keep"

    def push(self, token_id: int) -> str:
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
        """What was held back and will now never be completed."""
        text, self._pending = _decode_utf8(self._pending, self._rules.replace, final=True)
        return text


def decode_all(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    decoder = StreamDecoder(tokenizer)
    return "".join([*map(decoder.push, ids), decoder.finish()])


def _decode_utf8(data: bytes, replace: Literal["sequence", "byte"], *, final: bool) -> tuple[str, bytes]:
    """Text, and the bytes at the end that may yet become a character."""
    text = ""
    while data:
        try:
            return text + data.decode(), b""
        except UnicodeDecodeError as error:
            text += data[: error.start].decode()
            # Only the end of the data can be incomplete; every other error is final.
            if error.reason == "unexpected end of data" and not final:
                return text, data[error.start :]
            text += "\ufffd" * (error.end - error.start if replace == "byte" else 1)
            data = data[error.end :]
    return text, b""
