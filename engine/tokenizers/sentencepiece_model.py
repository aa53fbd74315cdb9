"""Serializes a SentencePiece model from bare tables, such as GGUF files have.

The model is a protocol-buffer message of which a dozen fields matter here, so it is encoded by hand. The numbers of
fields and types are those of sentencepiece_model.proto.
"""

import struct
from collections.abc import Sequence

_CONTROL, _BYTE = 3, 6
_BPE = 2


def model_bytes(
    tokens: Sequence[str],
    scores: Sequence[float],
    types: Sequence[int],
    *,
    bos_id: int,
    eos_id: int,
    add_space_prefix: bool,
) -> bytes:
    """A serialized ModelProto of type BPE; `types` are SentencePiece's piece types, one for each token."""
    pieces = []
    for i, (token, score, kind) in enumerate(zip(tokens, scores, types, strict=True)):
        kind = _CONTROL if i in (bos_id, eos_id) else kind
        pieces.append(_message(1, _text(1, token) + _float(2, score) + _number(3, kind)))
    trainer = (
        _number(3, _BPE)
        + _number(4, len(tokens))
        + _number(35, _BYTE in types)  # byte_fallback
        + _text(46, tokens[bos_id])
        + _text(47, tokens[eos_id])
    )
    normalizer = (
        _text(1, "identity")
        + _number(3, add_space_prefix)
        + _number(4, False)  # remove_extra_whitespaces
        + _number(5, True)  # escape_whitespaces
    )
    return b"".join(pieces) + _message(2, trainer) + _message(3, normalizer)


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
