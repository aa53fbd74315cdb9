"""SentencePiece vocabularies: Llama 2's and Mistral's `tokenizer.model`.

SentencePiece never encodes text to a control piece. It does so for user-defined pieces, so those that serve as control
tokens are guarded by `encode_ordinary`.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import sentencepiece

from engine.errors import ConfigError
from engine.tokenizers.base import DecodeRules, decode_all
from engine.tokenizers.ordinary import encode_ordinary, looks_like_control

_WORD_START = "\u2581"  # SentencePiece's mark for the space before a word


class SentencePieceTokenizer:
    """A `Tokenizer` over a serialized SentencePiece model; ConfigError names `source` if it is not one."""

    def __init__(self, model: bytes, *, source: str | Path, stop_ids: frozenset[int] = frozenset()) -> None:
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(model)
        except (RuntimeError, UnicodeDecodeError) as error:  # its own messages may quote bytes of the file
            raise ConfigError(source, expected="a SentencePiece model", found=f"{len(model)} other bytes") from error
        self.vocab_size: int = self._model.vocab_size()
        bos, eos = int(self._model.bos_id()), int(self._model.eos_id())
        if eos < 0:
            raise ConfigError(source, expected="an end-of-text piece", found="none in the vocabulary")
        self.bos_id: int | None = bos if bos >= 0 else None
        self.eos_id: int = eos
        self.stop_ids = stop_ids | {eos}
        try:
            names: list[str] = [self._model.id_to_piece(i) for i in range(self.vocab_size)]
        except UnicodeDecodeError as error:
            raise ConfigError(source, expected="pieces in UTF-8", found=f"{error.object!r}") from error
        self._controls = {
            name: i
            for i, name in enumerate(names)
            if self._model.is_control(i) or self._is_user_defined_control(i, name)
        }
        self._pieces = [self._piece(i, name) for i, name in enumerate(names)]

    def _is_user_defined_control(self, i: int, name: str) -> bool:
        """The library does not say which pieces are user-defined; unlike learnt pieces, they have score 0."""
        return looks_like_control(name) and self._model.get_score(i) == 0.0

    def _piece(self, i: int, name: str) -> bytes | str:
        if name in self._controls:
            return ""
        if self._model.is_byte(i):
            return bytes([int(name[3:5], 16)])
        if self._model.is_unknown(i):
            unknown: str = self._model.decode([i])
            return unknown.encode()  # as bytes, so that its leading space is kept
        return name.replace(_WORD_START, " ")

    @cached_property
    def rules(self) -> DecodeRules:
        """How many leading spaces decoding removes depends on the model, so try it with two."""
        space = int(self._model.piece_to_id(_WORD_START))
        if space == self._model.unk_id():
            return DecodeRules("byte", "once")
        decoded: str = self._model.decode([space, space])
        return DecodeRules("byte", "all" if decoded == "" else "once" if decoded == " " else "keep")

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`."""
        return encode_ordinary(text, self._encode, self._controls)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._model.encode(text)
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
