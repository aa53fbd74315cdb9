"""Llama 3's vocabulary as Meta ships it: a base64 token and its rank on each line.

256 control tokens follow the ordinary ones; they are not in the file. Knows no other file of the model.
"""

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path

import tiktoken

from engine.errors import ConfigError
from engine.tokenizers.base import DecodeRules, decode_all
from engine.tokenizers.marked import ControlNames, encode_segments
from engine.tokenizers.ordinary import valid_unicode
from engine.tokenizers.pre_tokenizers import LLAMA3_PATTERN

# The control tokens that are used, by offset from the first of the 256.
_CONTROLS = {
    "<|begin_of_text|>": 0,
    "<|end_of_text|>": 1,
    "<|finetune_right_pad_id|>": 4,
    "<|start_header_id|>": 6,
    "<|end_header_id|>": 7,
    "<|eom_id|>": 8,
    "<|eot_id|>": 9,
    "<|python_tag|>": 10,
}
_NEW_IN_LLAMA31 = ("<|finetune_right_pad_id|>", "<|eom_id|>", "<|python_tag|>")  # Llama 3 reserved these
_RESERVED = 256
_MAX_CHARACTERS = 50_000  # the library's regular expressions overflow on a million characters


def looks_like_tiktoken(content: bytes) -> bool:
    """Whether the first line is a base64 token and a rank."""
    line = content.split(b"\n", 1)[0].split()
    if len(line) != 2 or not line[1].isdigit():
        return False
    try:
        return bool(base64.b64decode(line[0], validate=True))
    except binascii.Error:
        return False


class TiktokenTokenizer:
    """A `Tokenizer` over the content of a tiktoken file; ConfigError names `source` if it is damaged.

    `llama31`: of Llama 3.1 or later. The file does not say it.
    """

    def __init__(self, content: bytes, *, source: Path, llama31: bool = True) -> None:
        ranks = _read_ranks(content, source)
        self._ordinary = len(ranks)
        self.vocab_size = self._ordinary + _RESERVED
        names = {name: place for name, place in _CONTROLS.items() if llama31 or name not in _NEW_IN_LLAMA31}
        self.controls = {name: self._ordinary + place for name, place in names.items()}
        self._names = ControlNames(self.controls)
        self._encoding = tiktoken.Encoding(
            "llama3", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens=self.controls
        )
        self._pieces = sorted(ranks, key=ranks.__getitem__)
        self.rules = DecodeRules("sequence")
        self.padding_ids: frozenset[int] = frozenset()
        self.bos_id: int | None = self.controls["<|begin_of_text|>"]
        self.adds_bos = True  # as Meta's scripts do
        self.eos_id = self.controls["<|end_of_text|>"]
        ends = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
        self.stop_ids = frozenset(self.controls[name] for name in ends if name in self.controls)

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`."""
        text = valid_unicode(text)
        parts = (text[n : n + _MAX_CHARACTERS] for n in range(0, len(text), _MAX_CHARACTERS))
        return [i for part in parts for i in self._encoding.encode_ordinary(part)]

    def encode_marked(self, text: str, trusted: bytes) -> list[int]:
        """See `Tokenizer.encode_marked`."""
        return encode_segments(text, self._names.spans(text, trusted), self.encode)

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        return decode_all(self, ids)

    def piece(self, token_id: int) -> bytes | str:
        """See `Tokenizer.piece`."""
        return self._pieces[token_id] if 0 <= token_id < self._ordinary else b""

    def control(self, name: str) -> int:
        """See `Tokenizer.control`."""
        return self.controls[name]


def _read_ranks(content: bytes, source: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            raise ConfigError(
                source, expected="a base64 token and its rank on each line", found=f"line {number}"
            ) from error
    if set(ranks.values()) != set(range(len(ranks))) or not all(bytes([n]) in ranks for n in range(256)):
        raise ConfigError(
            source, expected="ranks from 0 on and a token for each byte", found=f"{len(ranks)} other lines"
        )
    return ranks
