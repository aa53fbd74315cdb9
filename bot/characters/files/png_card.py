"""A card in a PNG: its chunks are read and written one by one, and no pixel is ever decoded. Pure.

The specifications put the JSON, in UTF-8 and base64, into a tEXt chunk: `ccv3` for version 3, `chara` for those before.
Compressed text (zTXt, iTXt) is read as well, up to the limit of a card. Every checksum must be right.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bot.characters.refused import MAX_CARD_BYTES, CardRefused, not_a_card, too_large
from bot.i18n.language import gettext as _

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEYWORDS = ("ccv3", "chara")
"""The best first."""
MAX_PIXELS = 1 << 25
"""Of the picture: 33 million, more than any screen has."""
_MAX_CHUNKS = 20_000
_MAX_TEXT = MAX_CARD_BYTES * 4 // 3 + 4
_ASSET = b"chara-ext-asset_"
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")


@dataclass(frozen=True, slots=True)
class PngCard:
    """The JSON in a PNG, the picture without any text, and how many assets it had with it."""

    json: bytes
    picture: bytes
    is_animated: bool
    num_assets: int


def read_png(data: bytes) -> PngCard:
    """The card in this PNG or APNG. Raises CardRefused."""
    texts: dict[str, bytes] = {}
    kept: list[bytes] = [SIGNATURE]
    is_animated, num_assets = False, 0
    for number, (kind, content) in enumerate(_chunks(data)):
        if (number == 0) != (kind == b"IHDR"):
            raise _broken()
        if kind == b"IHDR":
            _check_size(content)
        is_animated = is_animated or kind == b"acTL"
        if kind in _TEXT_CHUNKS:
            keyword = content[:80].partition(b"\0")[0]
            num_assets += keyword.startswith(_ASSET)
            name = keyword.decode("latin-1").lower()
            if name in KEYWORDS and name not in texts:
                texts[name] = _text_of(kind, content)
        elif kind != b"eXIf":
            kept.append(_chunk(kind, content))
    for name in KEYWORDS:
        if name in texts:
            return PngCard(_decoded(texts[name]), b"".join(kept), is_animated, num_assets)
    raise not_a_card(_("it is a picture without a character in it"))


def write_png(picture: bytes, texts: Mapping[str, bytes]) -> bytes:
    """The picture with these texts in it, as tEXt, in place of those that it had. Raises CardRefused."""
    chunks = [(kind, content) for kind, content in _chunks(picture) if kind not in _TEXT_CHUNKS]
    added = [(b"tEXt", name.encode("latin-1") + b"\0" + base64.b64encode(text)) for name, text in texts.items()]
    header, *rest = chunks  # before the pixels, where every reader finds it
    return SIGNATURE + b"".join(_chunk(kind, content) for kind, content in (header, *added, *rest))


def blank_png(width: int = 256, height: int = 256, grey: int = 0x60) -> bytes:
    """A picture for a character that has none: one shade of grey."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress((b"\0" + bytes([grey]) * width) * height, 9)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def still(picture: bytes) -> bytes:
    """The first picture of an animation."""
    return SIGNATURE + b"".join(_chunk(*each) for each in _chunks(picture) if each[0] not in _ANIMATION)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of each chunk up to IEND, whose checksums are right."""
    if not data.startswith(SIGNATURE):
        raise _broken()
    position, view = len(SIGNATURE), memoryview(data)
    for _chunk_number in range(_MAX_CHUNKS):
        if position + 12 > len(data):
            raise _broken()
        length = int.from_bytes(view[position : position + 4])
        end = position + 12 + length
        if end > len(data):
            raise _broken()
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            raise _broken()
        kind = bytes(view[position + 4 : position + 8])
        yield kind, bytes(view[position + 8 : end - 4])
        if kind == b"IEND":
            return
        position = end
    raise _broken()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _check_size(header: bytes) -> None:
    if len(header) != 13:
        raise _broken()
    width, height = struct.unpack(">II", header[:8])
    if not width or not height:
        raise _broken()
    if width * height > MAX_PIXELS:
        text = _("The picture of this card is {width:,} × {height:,} pixels; please send a smaller one.")
        raise CardRefused(text.format(width=width, height=height))


def _text_of(kind: bytes, content: bytes) -> bytes:
    """The text after the keyword, unpacked where it is packed."""
    text = content.partition(b"\0")[2]
    if kind == b"tEXt":
        return text if len(text) <= _MAX_TEXT else _refuse_size()
    if kind == b"zTXt":
        return _unpacked(text[1:])
    is_packed, rest = text[:1] == b"\1", text[2:]
    text = rest.partition(b"\0")[2].partition(b"\0")[2]
    return _unpacked(text) if is_packed else text


def _unpacked(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, _MAX_TEXT + 1)
    except zlib.error:
        raise _broken() from None
    return text if len(text) <= _MAX_TEXT else _refuse_size()


def _decoded(text: bytes) -> bytes:
    if len(text) > _MAX_TEXT:
        raise too_large()
    if text.lstrip()[:1] == b"{":  # some tools write the JSON as it is
        return text
    try:
        return base64.b64decode(b"".join(text.split()) + b"==", validate=False)
    except (binascii.Error, ValueError):
        raise not_a_card(_("the text in its picture is broken")) from None


def _refuse_size() -> bytes:
    raise too_large()


def _broken() -> CardRefused:
    return CardRefused(_("This PNG is damaged; please save it anew, without changing it, and send it again."))
