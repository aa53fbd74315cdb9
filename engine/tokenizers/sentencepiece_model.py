"""Writes a SentencePiece model from bare tables, such as GGUF files have, and takes one apart into its pieces.

The model is a protocol-buffer message of which a dozen fields matter here, so it is encoded by hand. The numbers of
fields and types are those of sentencepiece_model.proto. The library says neither which pieces are user-defined nor
accepts every vocabulary that converters write, hence the way back from bytes to pieces.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from engine.tokenizers.token_roles import BYTE, CONTROL, NORMAL

_BPE = 2
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3


class Piece(NamedTuple):
    """One entry of the vocabulary; `kind` is SentencePiece's piece type."""

    text: str
    score: float
    kind: int


def model_bytes(
    tokens: Sequence[str],
    scores: Sequence[float],
    types: Sequence[int],
    *,
    bos_id: int | None,
    eos_id: int,
    add_space_prefix: bool,
) -> bytes:
    """A serialized ModelProto of type BPE; `types` are SentencePiece's piece types, one for each token."""
    kinds = [CONTROL if i in (bos_id, eos_id) else kind for i, kind in enumerate(types)]
    trainer = (
        _number(3, _BPE)
        + _number(4, len(tokens))
        + _number(35, BYTE in kinds)  # byte_fallback
        + (b"" if bos_id is None else _text(46, tokens[bos_id]))
        + _text(47, tokens[eos_id])
    )
    normalizer = (
        _text(1, "identity")
        + _number(3, add_space_prefix)
        + _number(4, False)  # remove_extra_whitespaces
        + _number(5, True)  # escape_whitespaces
    )
    rest = _message(_TRAINER, trainer) + _message(_NORMALIZER, normalizer)
    return join_model([Piece(*piece) for piece in zip(tokens, scores, kinds, strict=True)], rest)


def join_model(pieces: Sequence[Piece], rest: bytes) -> bytes:
    """The ModelProto of these pieces; `rest` are its other fields."""
    return (
        b"".join(
            _message(_PIECES, _text(1, piece.text) + _float(2, piece.score) + _number(3, piece.kind))
            for piece in pieces
        )
        + rest
    )


def split_model(model: bytes) -> tuple[list[Piece], bytes]:
    """The pieces of a ModelProto and its other fields. ValueError, of which UnicodeDecodeError is one, if damaged."""
    pieces, rest = [], bytearray()
    for field, value, raw in _fields(model):
        if field == _PIECES and isinstance(value, bytes):
            pieces.append(_piece(value))
        else:
            rest += raw
    return pieces, bytes(rest)


def _piece(message: bytes) -> Piece:
    text, score, kind = b"", 0.0, NORMAL
    for field, value, raw in _fields(message):
        if field == 1 and isinstance(value, bytes):
            text = value
        elif field == 2 and len(raw) == 5:
            (score,) = struct.unpack("<f", raw[1:])
        elif field == 3 and isinstance(value, int):
            kind = value
    return Piece(text.decode(), score, kind)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes, bytes]]:
    """The number, value and own bytes of each field; the value of a fixed-size number is its bytes."""
    at = 0
    while at < len(message):
        start = at
        key, at = _read_varint(message, at)
        value: int | bytes
        match key & 7:
            case 0:
                value, at = _read_varint(message, at)
            case 1 | 5 as wire:
                size = 8 if wire == 1 else 4
                value, at = message[at : at + size], at + size
            case 2:
                size, at = _read_varint(message, at)
                value, at = message[at : at + size], at + size
            case wire:
                raise ValueError(f"a field of wire type {wire}")
        if at > len(message):
            raise ValueError("a field beyond the end")
        yield key >> 3, value, message[start:at]


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("an unfinished number")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, content: str) -> bytes:
    return _message(field, content.encode())
