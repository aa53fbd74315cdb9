"""A file as a character card: which of the three packings it has, and what came with the card. Pure."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from io import BytesIO

from bot.characters.card import CharacterCard, read_card
from bot.characters.files.charx import read_charx
from bot.characters.files.json_card import read_json
from bot.characters.files.png_card import SIGNATURE, read_png, still
from bot.characters.refused import not_a_card

MAX_PICTURE_BYTES = 4 << 20
_EMBEDDED = ("embeded://", "embedded://")
"""The specification has the first."""
_BLANKS = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ImportedCard:
    """A card as its file holds it. `picture` is a PNG, JPEG or WebP as it came, not looked into; b"" for none."""

    card: CharacterCard
    packing: str
    picture: bytes = field(default=b"", repr=False)
    num_assets: int = 0
    """Files that came with the card and are not kept."""
    is_animated: bool = False


def read_file(data: bytes) -> ImportedCard:
    """The card in this file. Raises CardRefused. Takes up to a second for the largest: not for an event loop."""
    if data.startswith(SIGNATURE):
        png = read_png(data)
        picture = still(png.picture) if png.is_animated else png.picture
        kept = picture if len(picture) <= MAX_PICTURE_BYTES else b""
        return ImportedCard(read_card(read_json(png.json)), "PNG", kept, png.num_assets, png.is_animated)
    if data.removeprefix(_BOM).lstrip(_BLANKS)[:1] == b"{":
        return ImportedCard(read_card(read_json(data)), "JSON")
    if zipfile.is_zipfile(BytesIO(data)):
        charx = read_charx(data)
        card = read_card(read_json(charx.json))
        path = _main_icon(card)
        picture = (charx.asset(path, MAX_PICTURE_BYTES) if path else None) or b""
        return ImportedCard(card, "CHARX", picture, charx.num_assets - bool(picture))
    raise not_a_card()


def _main_icon(card: CharacterCard) -> str:
    """The path of the main picture among the assets; "" if none is packed with the card."""
    icons = [(name, uri) for kind, name, uri in card.assets if kind == "icon"]
    icons.sort(key=lambda icon: icon[0] != "main")
    for _, uri in icons:
        for scheme in _EMBEDDED:
            if uri.startswith(scheme):
                return uri.removeprefix(scheme)
    return ""
