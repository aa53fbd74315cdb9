"""Recognises what a file is by its first bytes; extensions and declared types are only claims. Pure functions.

Many signatures are letters (`MZ`, `ID3`, `BZh`), and a text may begin with the same ones. So those count only where the
bytes after them are no text.
"""

from __future__ import annotations

import re
from typing import Literal

Kind = Literal["pdf", "image", "other image", "audio", "video", "archive", "office", "program", "data", "unknown"]
"""`image` is a format that is read, `other image` one that is not; `unknown` may be text."""

HEAD_BYTES = 4096
"""How much of a file `sniff` wants to see."""

CONTROL_BYTES = bytes([*range(0x09), 0x0B, *range(0x0E, 0x1B), *range(0x1C, 0x20), 0x7F])
"""Bytes that no text in an 8-bit encoding has: controls except tab, line breaks, form feed and escape."""

_TEXT_LIKE: tuple[tuple[bytes, Kind], ...] = (
    (b"GIF87a", "image"),
    (b"GIF89a", "image"),
    (b"BM", "other image"),
    (b"8BPS", "other image"),
    (b"ID3", "audio"),
    (b"OggS", "audio"),
    (b"fLaC", "audio"),
    (b"#!AMR", "audio"),
    (b"MThd", "audio"),
    (b"caff", "audio"),
    (b"FLV\x01", "video"),
    (b"PK\x03\x04", "archive"),
    (b"PK\x05\x06", "archive"),
    (b"Rar!\x1a\x07", "archive"),
    (b"BZh", "archive"),
    (b"MSCF", "archive"),
    (b"!<arch>\n", "archive"),
    (b"MZ", "program"),
    (b"dex\n", "program"),
    (b"SQLite format 3\x00", "data"),
    (b"wOFF", "data"),
    (b"wOF2", "data"),
    (b"OTTO", "data"),
    (b"GGUF", "data"),
)
_BINARY: tuple[tuple[bytes, Kind], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image"),
    (b"\xff\xd8\xff", "image"),
    (b"II*\x00", "other image"),
    (b"MM\x00*", "other image"),
    (b"\x00\x00\x01\x00", "other image"),
    (b"\xff\x0a", "other image"),
    (b"\x00\x00\x00\x0cJXL ", "other image"),
    (b"\xff\xfb", "audio"),
    (b"\xff\xf3", "audio"),
    (b"\xff\xf2", "audio"),
    (b"\xff\xf1", "audio"),
    (b"\xff\xf9", "audio"),
    (b"\x1aE\xdf\xa3", "video"),
    (b"\x00\x00\x01\xba", "video"),
    (b"\x00\x00\x01\xb3", "video"),
    (b"0&\xb2u\x8ef\xcf\x11", "video"),
    (b"7z\xbc\xaf\x27\x1c", "archive"),
    (b"\x1f\x8b", "archive"),
    (b"\x1f\x9d", "archive"),
    (b"\xfd7zXZ\x00", "archive"),
    (b"(\xb5/\xfd", "archive"),
    (b'\x04"M\x18', "archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "office"),
    (b"\x7fELF", "program"),
    (b"\xfe\xed\xfa\xce", "program"),
    (b"\xfe\xed\xfa\xcf", "program"),
    (b"\xce\xfa\xed\xfe", "program"),
    (b"\xcf\xfa\xed\xfe", "program"),
    (b"\xca\xfe\xba\xbe", "program"),
    (b"\x00asm", "program"),
    (b"L\x00\x00\x00\x01\x14\x02\x00", "program"),
    (b"\x00\x01\x00\x00\x00", "data"),
)
_RIFF: dict[bytes, Kind] = {b"WEBP": "image", b"WAVE": "audio", b"AVI ": "video", b"RMID": "audio"}
_FORM: dict[bytes, Kind] = {b"AIFF": "audio", b"AIFC": "audio", b"ILBM": "other image"}
_STILL_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"avif", b"avis"}
_OFFICE_ENTRY = re.compile(
    rb"\[Content_Types\]\.xml|_rels/\.rels|mimetypeapplication/(?:vnd\.oasis\.opendocument|epub)|(?:word|xl|ppt)/"
)
_PDF = re.compile(rb"[\s\x00\xef\xbb\xbf]{0,64}%PDF-")
_TS_PACKET = 188


def sniff(head: bytes) -> Kind:
    """What these first bytes (`HEAD_BYTES`, or the whole file) belong to."""
    head = head[:HEAD_BYTES]
    if _PDF.match(head):
        return "pdf"
    for signature, kind in _BINARY:
        if head.startswith(signature):
            return kind
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in _STILL_BRANDS:
            return "other image"
        return "audio" if brand in {b"M4A ", b"M4B "} else "video"
    if not has_control_bytes(head):
        return "unknown"
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12], "data")
    if head[:4] == b"FORM":
        return _FORM.get(head[8:12], "data")
    for signature, kind in _TEXT_LIKE:
        if head.startswith(signature):
            return "office" if head[:2] == b"PK" and _OFFICE_ENTRY.search(head) else kind
    if head[257:262] == b"ustar":
        return "archive"
    if len(head) > 2 * _TS_PACKET and head[0] == head[_TS_PACKET] == head[2 * _TS_PACKET] == 0x47:
        return "video"
    return "unknown"


def has_control_bytes(data: bytes) -> bool:
    """Whether a byte is among those that no text in an 8-bit encoding has."""
    return len(data.translate(None, CONTROL_BYTES)) != len(data)


def declared_kind(content_type: str | None) -> Kind:
    """What the sender's program says that the file is."""
    main, _, sub = (content_type or "").partition(";")[0].strip().lower().partition("/")
    if main in {"audio", "video"}:
        return "audio" if main == "audio" else "video"
    if main == "image":
        return "unknown" if sub.startswith("svg") else "image"
    if sub in {"pdf", "x-pdf"}:
        return "pdf"
    if sub in {"zip", "gzip", "x-gzip", "x-tar", "x-7z-compressed", "x-rar-compressed", "vnd.rar", "x-bzip2", "zstd"}:
        return "archive"
    return "unknown"


def declared_charset(content_type: str | None) -> str | None:
    """The charset in a content type such as `text/plain; charset=windows-1251`."""
    found = re.search(r"""charset\s*=\s*["']?([A-Za-z0-9_.:-]{1,40})""", content_type or "", re.IGNORECASE)
    return found[1] if found else None
