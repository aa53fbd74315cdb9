"""Builds the files that cards come in, also those that no honest program writes."""

from __future__ import annotations

import base64
import io
import json
import struct
import zipfile
import zlib
from typing import Any

SIGNATURE = b"\x89PNG\r\n\x1a\n"
IDAT = zlib.compress(b"\0\x10\x20\x30" * 1)


def v2(**fields: Any) -> dict[str, Any]:
    data = {"name": "Mira", "description": "A miller.", "extensions": {}, **fields}
    return {"spec": "chara_card_v2", "spec_version": "2.0", "data": data}


def v3(**fields: Any) -> dict[str, Any]:
    return {**v2(**fields), "spec": "chara_card_v3", "spec_version": "3.0"}


def encoded(card: object) -> bytes:
    return base64.b64encode(json.dumps(card).encode())


def chunk(kind: bytes, content: bytes, *, crc: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def header(width: int = 1, height: int = 1) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def png(*chunks: bytes, head: bytes = b"", end: bool = True) -> bytes:
    """Chunks after the pixels, where SillyTavern writes them."""
    return SIGNATURE + (head or header()) + chunk(b"IDAT", IDAT) + b"".join(chunks) + (chunk(b"IEND", b"") * end)


def text_chunk(card: object, keyword: bytes = b"chara") -> bytes:
    return chunk(b"tEXt", keyword + b"\0" + encoded(card))


def charx(card: object | bytes | None, *files: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        if card is not None:
            archive.writestr("card.json", card if isinstance(card, bytes) else json.dumps(card))
        for name, content in files:
            archive.writestr(name, content)
    return file.getvalue()
