"""A card in a CHARX: a zip with `card.json` at its root, and assets of which only the main picture is read. Pure.

Nothing is ever unpacked to a disk, and nothing but these two entries is unpacked at all, each up to its limit.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from bot.characters.refused import MAX_CARD_BYTES, CardRefused, not_a_card, too_large
from bot.i18n.language import gettext as _

CARD = "card.json"
MAX_ENTRIES = 2000
MAX_TOTAL = 512 << 20
"""Bytes that all entries say to have: none of them is unpacked, but an honest archive that small is no bomb."""
MAX_RATIO = 200
"""Of a card's JSON to what it takes in the archive; text packs to a tenth."""
_ARCHIVES = (".zip", ".charx", ".7z", ".rar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".tar", ".jar", ".apk")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_PIECE = 64 << 10
_ENTRY = b"PK\x01\x02"
"""What each entry of an archive's list of files begins with."""


@dataclass(frozen=True, slots=True)
class CharxCard:
    """The JSON in a CHARX, how many assets are packed with it, and a way to read one of them."""

    json: bytes
    num_assets: int
    asset: Callable[[str, int], bytes | None]
    """The asset with this path, None if there is none or it has more bytes than the limit."""


def read_charx(data: bytes) -> CharxCard:
    """The card in this archive. Raises CardRefused."""
    if data.count(_ENTRY) > MAX_ENTRIES:  # before there is an object for each of a million
        raise _too_many()
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError, OverflowError):
        raise _broken() from None
    _check(entries)
    found = [entry for entry in entries if entry.filename == CARD]
    if len(found) != 1:
        why = _("it is an archive with more than one {file}") if found else _("it is an archive without {file}")
        raise not_a_card(why.format(file=CARD))
    if found[0].file_size > MAX_CARD_BYTES:
        raise too_large()
    text = _read(archive, found[0], MAX_CARD_BYTES)
    if text is None:
        raise too_large()
    if len(text) > MAX_RATIO * max(1, found[0].compress_size) + 1024:
        raise CardRefused(_("This archive unpacks to far more than it holds; I do not open such files."))
    by_name = {entry.filename: entry for entry in entries}

    def asset(path: str, limit: int) -> bytes | None:
        entry = by_name.get(path)
        return None if entry is None or entry.file_size > limit else _read(archive, entry, limit)

    return CharxCard(text, sum(not entry.is_dir() for entry in entries) - 1, asset)


def _check(entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_ENTRIES or sum(entry.file_size for entry in entries) > MAX_TOTAL:
        raise _too_many()
    for entry in entries:
        name = entry.filename
        if name.startswith(("/", "\\")) or "\\" in name or ":" in name or ".." in name.split("/"):
            raise CardRefused(_("This archive has files that point outside of it; I do not open such files."))
        if entry.flag_bits & 0x1:
            raise CardRefused(_("This archive is locked with a password; please send it without one."))
        if name.lower().endswith(_ARCHIVES):
            raise CardRefused(_("This archive has archives within it; please take them out and send it again."))
        if (entry.external_attr >> 16) & 0o170000 == 0o120000:
            raise CardRefused(_("This archive has links in it; I do not open such files."))


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes | None:
    """The entry's content; None if it is larger than the limit, whatever size the archive states."""
    if entry.compress_type not in _METHODS:
        raise CardRefused(_("This archive is packed in a way that I do not read; please pack it as a plain zip."))
    content = bytearray()
    try:
        with archive.open(entry) as file:
            while piece := file.read(_PIECE):
                content += piece
                if len(content) > limit:
                    return None
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, RuntimeError, OSError, EOFError):
        raise _broken() from None
    return bytes(content)


def _too_many() -> CardRefused:
    text = _("This archive holds more than {number:,} files or {size} MiB.")
    return CardRefused(text.format(number=MAX_ENTRIES, size=MAX_TOTAL >> 20))


def _broken() -> CardRefused:
    return CardRefused(_("This archive is damaged; please save it anew and send it again."))
