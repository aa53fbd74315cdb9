"""The index of a rank's page file: which records are there, and on rank 0 what they are. Sealed as one message.

    magic, salt      readable, and authenticated with the rest
    sealed           fingerprint of the model; number of records; record and stamp of each; the catalogue

It knows bytes, no files.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from engine.kv_store.sealing import SALT_BYTES, Sealer

MAGIC: Final = b"GLKVIDX1"
FINGERPRINT_BYTES: Final = 32
_COUNT: Final = struct.Struct("<I")
_RECORD: Final = struct.Struct("<IQ")


class IndexUnusable(Exception):
    """Why an index is of no use; the engine starts without it."""


@dataclass(frozen=True, slots=True)
class Index:
    """`stamps` by record."""

    stamps: Mapping[int, int]
    catalogue: bytes = b""


def seal_index(index: Index, sealer: Sealer, salt: bytes, *, fingerprint: bytes, context: bytes) -> bytes:
    """The bytes of the file."""
    records = b"".join(_RECORD.pack(record, stamp) for record, stamp in index.stamps.items())
    message = fingerprint + _COUNT.pack(len(index.stamps)) + records + index.catalogue
    return MAGIC + salt + sealer.seal(message, MAGIC + salt + context)


def open_index(data: bytes, key: bytes, *, fingerprint: bytes, context: bytes) -> tuple[Index, Sealer, bytes]:
    """The index, and with which sealer and salt it was sealed. Raises IndexUnusable."""
    if data[: len(MAGIC)] != MAGIC:
        raise IndexUnusable("it has another format")
    salt = data[len(MAGIC) : len(MAGIC) + SALT_BYTES]
    sealer = Sealer(key, salt)
    message = sealer.open(data[len(MAGIC) + SALT_BYTES :], MAGIC + salt + context)
    if message is None:
        raise IndexUnusable("it was sealed with another key, or is damaged")
    if message[:FINGERPRINT_BYTES] != fingerprint:
        raise IndexUnusable("it belongs to another model or other settings")
    try:
        (count,) = _COUNT.unpack_from(message, FINGERPRINT_BYTES)
        at = FINGERPRINT_BYTES + _COUNT.size
        end = at + count * _RECORD.size
        if end > len(message):
            raise ValueError("fewer records than it says")
        stamps = dict(_RECORD.iter_unpack(message[at:end]))
    except (struct.error, ValueError) as error:
        raise IndexUnusable(f"it is malformed: {error}") from error
    return Index(stamps, message[end:]), sealer, salt
