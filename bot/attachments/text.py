"""Turns the bytes of a file into clean text, whatever its encoding, or finds that they are none. Pure functions.

In this order: a byte order mark, UTF-8, UTF-16 and UTF-32 without a mark by their statistics, the declared charset, a
detector. Code, Markdown, CSV, JSON and logs are text like any other: content decides, not the extension.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

import charset_normalizer

from bot.attachments.kinds import CONTROL_BYTES

MAX_LINES = 50_000
MAX_LINE_CHARS = 100_000
"""A line of minified code is long; one far beyond that is data."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with the other one
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
_DETECTED = [
    *("cp1252", "cp1251", "cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "iso8859_2", "koi8_r"),
    *("cp866", "cp932", "shift_jis", "euc_jp", "gb18030", "big5", "euc_kr", "cp874", "utf_8"),
]
"""What files are written in. With all of Python's codecs the detector finds rare ones in short texts."""
_NO_CHARSETS = {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "utf-7", "mbcs", "oem"}
_CENTRAL_EUROPEAN = {"cp1250", "cp1254", "cp1257", "cp1258", "iso8859_2"}
_WESTERN = re.compile("[\x00-\x7fÀÂÄÅÆÇÉÈÊËÎÏÑÓÖØÔŒÜÛÙßàâäáãåæçéèêëíîïìñóòôöõøœúùûüÿ«»„“”‚‘’–—…€£§°·´©®\xa0¡¿]+")
_SURE_OF_LANGUAGE = 0.2
_JAPANESE_ESCAPE = re.compile(rb"\x1b\$[@B]")
_SAMPLE_CHARS = 20_000
_MANY_CONTROLS = 0.1
_FEW_CONTROLS = 0.02
_PLAUSIBLE = 0.95
_DAMAGED = 0.02
_REPLACED = "\N{REPLACEMENT CHARACTER}"

_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,2000}(?:\x07|\x1b\\)|[ -/]*[0-~])")
_LINE_BREAK = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_UNWANTED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]")
"""Controls, marks and noncharacters, and the tags that hide a text from people and not from models."""


def read_text(data: bytes, charset: str | None = None) -> tuple[str, bool] | None:
    """The text and whether it was cut, or None if this is no text. `charset` is what the sender's program declared."""
    text = _decode(data, charset)
    if text is None:
        return None
    bare = _ESCAPE_SEQUENCE.sub("", text)
    if len(_CONTROLS.findall(bare)) > _FEW_CONTROLS * len(bare):
        return None
    return limit_lines(clean(bare))


def clean(text: str) -> str:
    """The text without terminal colours, control characters and hidden tags, its lines ended by `\\n`."""
    return _UNWANTED.sub("", _LINE_BREAK.sub("\n", _ESCAPE_SEQUENCE.sub("", text)))


def limit_lines(text: str) -> tuple[str, bool]:
    """The text within the limits on lines, and whether something was cut."""
    lines = text.split("\n", MAX_LINES)
    kept = [line if len(line) <= MAX_LINE_CHARS else line[: MAX_LINE_CHARS - 1] + "…" for line in lines[:MAX_LINES]]
    cut = "\n".join(kept)
    return cut, cut != text


def cut_to_bytes(text: str, limit: int) -> tuple[str, bool]:
    """The beginning of the text that takes at most `limit` bytes in UTF-8, and whether something was cut."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return text, False
    return encoded[:limit].decode("utf-8", "ignore"), True


def _decode(data: bytes, charset: str | None) -> str | None:
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            text = _strict(data[len(bom) :], encoding)
            if text is not None and _plausibility(text) >= _PLAUSIBLE:
                return text
    controls = 1 - len(data.translate(None, CONTROL_BYTES)) / max(1, len(data))
    if controls > _MANY_CONTROLS:
        return _wide(data)
    if _JAPANESE_ESCAPE.search(data) and (text := _strict(data, "iso2022_jp")) is not None:
        return text  # its bytes are all ASCII
    if (text := _strict(data, "utf-8")) is not None:
        return text
    if controls and (text := _wide(data)) is not None:
        return text
    if controls > _FEW_CONTROLS:
        return None
    for decoded in (_declared(data, charset), _mostly_utf8(data), _detected(data)):
        if decoded is not None:
            return decoded
    return None


def _wide(data: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark: what decodes to plausible characters of few scripts."""
    found: list[tuple[int, int, str]] = []
    for encoding in _WIDE:
        text = _strict(data, encoding)
        if text and _plausibility(text) >= _PLAUSIBLE:
            sample = text[:_SAMPLE_CHARS]
            # In the wrong byte order every letter falls into another block, and ASCII falls nowhere.
            blocks = len({ord(character) >> 8 for character in sample})
            found.append((blocks, -sum(character.isascii() for character in sample), text))
    return min(found)[2] if found else None


def _declared(data: bytes, charset: str | None) -> str | None:
    if charset is None:
        return None
    try:
        codec = codecs.lookup(charset)
    except (LookupError, ValueError):
        return None
    if codec.name in _NO_CHARSETS or not getattr(codec, "_is_text_encoding", True):
        return None
    text = _strict(data, codec.name)
    return text if text is not None and _plausibility(text) >= _PLAUSIBLE else None


def _mostly_utf8(data: bytes) -> str | None:
    """UTF-8 with a few broken places, as logs have them: whole characters beside them show that it is UTF-8."""
    text = data.decode("utf-8", "replace")
    broken = text.count(_REPLACED)
    whole = sum(not character.isascii() for character in text) - broken
    return text if whole >= broken and broken <= _DAMAGED * len(text) else None


def _detected(data: bytes) -> str | None:
    best = charset_normalizer.from_bytes(data, cp_isolation=_DETECTED).best()
    encodings = [best.encoding] if best is not None else []
    if best is not None and best.encoding in _CENTRAL_EUROPEAN and best.coherence < _SURE_OF_LANGUAGE:
        western = _strict(data, "cp1252")  # far more frequent, and without a language all of them fit
        if western is not None and _WESTERN.fullmatch(western):
            return western
    for encoding in (*encodings, "cp1252"):
        text = _strict(data, encoding)
        if text is not None and _plausibility(text) >= _PLAUSIBLE:
            return text
    return None


def _strict(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except (UnicodeError, LookupError, ValueError):
        return None


def _plausibility(text: str) -> float:
    """The share of characters that a text has: letters, digits, marks, spaces; no controls, none unassigned."""
    sample = text[:_SAMPLE_CHARS]
    odd = sum(unicodedata.category(character) in {"Cn", "Co", "Cs"} for character in sample)
    odd += sum(map(len, _UNWANTED.findall(sample)))
    return 1 - odd / max(1, len(sample))
