"""Encodes long texts a part at a time, and bounds the number of tokens of a text without encoding it.

A tokenizer library may hold Python's lock during one call, and allocates many times the size of the text: parts keep
both small. A text is cut where its ids do not change, at a space between two Latin letters: every pre-tokenizer that is
known here begins a new word there, and vocabularies whose pieces cross it are not cut there. Only a part that has grown
to MAX_PART_CHARS is cut anywhere. Knows no HTTP and no model.
"""

import re
from collections.abc import Iterator, Mapping

from engine.tokenizers.base import Tokenizer

PART_CHARS = 1 << 15
MAX_PART_CHARS = 1 << 18  # a text without a safe place is cut here, even if its ids change
UNKNOWN_PIECE_BYTES = 1024  # per token, for a tokenizer that changes a text before it encodes it
_SAFE_CUT = re.compile(r"[A-Za-z] (?=[A-Za-z])")
_CROSSES_WORDS = re.compile(rb"[A-Za-z] [A-Za-z]")
# A tokenizer that normalizes returns another text: collapsed spaces, composed accents, compatibility characters.
_UNUSUAL = "a  b\t\tc \n\n d\u00a0e e\u0301 \u1112\u1161\u11ab \ufb01 \uff21 \u200b\u0007 \U0001f642 z"


class PiecewiseEncoder:
    """A tokenizer whose `encode` takes texts of any length. Has what chat formats need (`PromptTokenizer`)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Looks at each piece of the vocabulary."""
        self._tokenizer = tokenizer
        self.bos_id, self.eos_id, self.stop_ids = tokenizer.bos_id, tokenizer.eos_id, tokenizer.stop_ids
        pieces = [tokenizer.piece(token) for token in range(tokenizer.vocab_size)]
        encoded = [piece if isinstance(piece, bytes) else piece.encode() for piece in pieces]
        normalizes = tokenizer.decode(tokenizer.encode(_UNUSUAL)) != _UNUSUAL
        self.max_piece_bytes = UNKNOWN_PIECE_BYTES if normalizes else max(map(len, encoded))
        self._skip = None if any(map(_CROSSES_WORDS.search, encoded)) else self._chars_to_skip()

    def control(self, name: str) -> int:
        """See Tokenizer."""
        return self._tokenizer.control(name)

    @property
    def controls(self) -> Mapping[str, int]:
        """As `Tokenizer.controls`."""
        return self._tokenizer.controls

    def encode(self, text: str) -> list[int]:
        """The ids of the text, as from one call of the tokenizer unless it had to be cut at MAX_PART_CHARS."""
        if len(text) <= PART_CHARS:
            return self._tokenizer.encode(text)
        ids: list[int] = []
        for part in self._parts(text):
            ids += self._tokenizer.encode(part)
        return ids

    def encode_marked(self, text: str, trusted: bytes) -> list[int]:
        """As `Tokenizer.encode_marked`."""
        if len(text) <= PART_CHARS:
            return self._tokenizer.encode_marked(text, trusted)
        ids: list[int] = []
        for start, end in self._bounds(text):
            ids += self._tokenizer.encode_marked(text[start:end], trusted[start:end])
        return ids

    def min_tokens(self, num_bytes: int) -> int:
        """The smallest number of tokens that a text of `num_bytes` in UTF-8 can have."""
        return -(-num_bytes // self.max_piece_bytes)

    def _parts(self, text: str) -> Iterator[str]:
        return (text[start:end] for start, end in self._bounds(text))

    def _bounds(self, text: str) -> Iterator[tuple[int, int]]:
        """Where parts begin and end. A control token is cut too if its name has a space between two letters."""
        start = 0
        while len(text) - start > PART_CHARS:
            cut = None if self._skip is None else _SAFE_CUT.search(text, start + PART_CHARS, start + MAX_PART_CHARS)
            if cut is None:
                end = following = min(start + MAX_PART_CHARS, len(text))
            else:
                end = cut.end() - 1
                following = end + (self._skip or 0)
            yield start, end
            start = following
        if start < len(text):
            yield start, len(text)

    def _chars_to_skip(self) -> int | None:
        """1 if the tokenizer puts a space before each text, 0 if it does not, None if it is not known."""
        encode = self._tokenizer.encode
        whole, first = encode("the quick brown fox"), encode("the quick")
        for skip in (0, 1):
            if first + encode(" brown fox"[skip:]) == whole:
                return skip
        return None
