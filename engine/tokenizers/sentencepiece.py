"""SentencePiece vocabularies: Llama 2's and Mistral's `tokenizer.model`, and GGUF's of kind "llama".

SentencePiece never encodes text to a control piece. So the library gets every piece that text must not become (marks
that a converter typed user-defined, padding, repetitions) as a control piece, renamed if it would refuse the name.
Knows pieces and their roles; knows no templates.
"""

import re
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path

import sentencepiece

from engine.errors import ConfigError
from engine.tokenizers.base import DecodeRules, decode_all
from engine.tokenizers.marked import ControlNames, encode_segments
from engine.tokenizers.ordinary import encode_ordinary
from engine.tokenizers.sentencepiece_model import Piece, join_model, split_model
from engine.tokenizers.token_roles import BYTE, CONTROL, UNKNOWN, UNUSED, TokenRoles, byte_value, token_roles

_WORD_START = "\u2581"  # SentencePiece's mark for the space before a word
_NOT_A_MODEL = re.compile(r"\.cc\(|ParseFromArray|is not defined")  # the library's texts for content of another kind


class SentencePieceTokenizer:
    """A `Tokenizer` over a serialized SentencePiece model; ConfigError names `source` if it is not one.

    `bos_id`, `eos_id` and `stop_ids` come from a file beside the model; the default is the model's own pieces.
    """

    def __init__(
        self,
        model: bytes,
        *,
        source: str | Path,
        bos_id: int | None = None,
        eos_id: int | None = None,
        stop_ids: Collection[int] = (),
        adds_bos: bool = True,
    ) -> None:
        try:
            pieces, rest = split_model(model)
        except UnicodeDecodeError as error:
            raise ConfigError(source, expected="pieces in UTF-8", found=f"{error.object!r:.40}") from error
        except ValueError as error:
            raise _other_content(source, model) from error
        if not pieces:
            raise _other_content(source, model)
        tokens = [piece.text for piece in pieces]
        given = [i for i in (bos_id, eos_id, *stop_ids) if i is not None]
        roles = token_roles(tokens, [piece.kind for piece in pieces], reserved=given)
        if roles.unknown is None and not any(piece.kind == BYTE for piece in pieces):
            raise ConfigError(source, expected="<unk> or pieces for all bytes", found="neither")
        self._model = _load(join_model(_accepted(pieces, roles), rest), model, source)
        self.vocab_size: int = len(pieces)
        bos = int(self._model.bos_id()) if bos_id is None else bos_id
        eos = int(self._model.eos_id()) if eos_id is None else eos_id
        if eos < 0:
            raise ConfigError(source, expected="an end-of-text piece", found="none in the vocabulary")
        self.bos_id: int | None = bos if bos >= 0 else None
        self.eos_id: int = eos
        self.stop_ids = frozenset(stop_ids) | {eos}
        self.adds_bos = adds_bos and self.bos_id is not None
        self.controls, self.padding_ids = roles.controls, roles.padding
        self._names = ControlNames(self.controls)
        self._pieces = [self._piece(i, name, roles) for i, name in enumerate(tokens)]

    def _piece(self, i: int, name: str, roles: TokenRoles) -> bytes | str:
        if i in roles.silent:
            return ""
        if self._model.is_byte(i):
            return bytes([byte_value(name) or 0])
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
        return encode_ordinary(text, self._encode, self.controls)

    def encode_marked(self, text: str, trusted: bytes) -> list[int]:
        """See `Tokenizer.encode_marked`."""
        return encode_segments(text, self._names.spans(text, trusted), self.encode)

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
        return self.controls[name]


def _accepted(pieces: Sequence[Piece], roles: TokenRoles) -> list[Piece]:
    """The pieces as the library accepts them, in which text becomes none of `roles.not_encoded`."""
    accepted, names = [], {pieces[i].text for i in range(len(pieces)) if i not in roles.not_encoded}
    for i, piece in enumerate(pieces):
        if i == roles.unknown:
            piece = piece._replace(kind=UNKNOWN)
        elif i in roles.not_encoded:
            name = piece.text
            while not name or name in names:
                name = f"{name}\ufffc{i}"
            names.add(name)
            # Merges may pass through an unused piece, which the library then takes apart again.
            kept = piece.kind == UNUSED and name == piece.text
            piece = piece if kept else Piece(name, piece.score, CONTROL)
        accepted.append(piece)
    return accepted


def _load(accepted: bytes, original: bytes, source: str | Path) -> sentencepiece.SentencePieceProcessor:
    model = sentencepiece.SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(accepted)
    except (RuntimeError, UnicodeDecodeError) as error:
        reason = str(error).partition(":")[2].strip() if isinstance(error, RuntimeError) else ""
        if not reason or _NOT_A_MODEL.search(reason):
            raise _other_content(source, original) from error
        found = "".join(c if c.isprintable() else "?" for c in reason[:120]).rstrip(".")
        raise ConfigError(source, expected="a vocabulary that SentencePiece accepts", found=found) from error
    return model


def _other_content(source: str | Path, model: bytes) -> ConfigError:
    return ConfigError(source, expected="a SentencePiece model", found=f"{len(model)} other bytes")
