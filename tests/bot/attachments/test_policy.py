"""What is refused before it is loaded, and what a file turns out to be."""

from __future__ import annotations

import pytest

from bot.attachments import reasons
from bot.attachments.kinds import declared_charset, sniff
from bot.attachments.policy import check_head, check_offer
from bot.attachments.types import FileLimits, FileRefused, OfferedFile
from bot.settings import Settings

LIMITS = FileLimits(max_files=4, max_text_bytes=1000, max_raw_bytes=5000)
TS = (b"G" + bytes(187)) * 4
HEADS = {
    "pdf": [b"%PDF-1.7\n%\xe2\xe3", b"\n\n%PDF-1.4\n", b"\xef\xbb\xbf%PDF-1.4\n"],
    "image": [b"\x89PNG\r\n\x1a\n\x00", b"\xff\xd8\xff\xe0\x00", b"GIF89a\x01\x00", b"RIFF\x00\x00\x00\x00WEBPVP8 "],
    "other image": [b"BM\x00\x00", b"II*\x00\x08", b"\x00\x00\x00\x1cftypheic", b"\x00\x00\x00\x1cftypavif\x00"],
    "audio": [
        b"ID3\x04\x00",
        b"OggS\x00\x02",
        b"\xff\xfb\x90",
        b"RIFF\x00\x00\x00\x00WAVEfmt ",
        b"fLaC\x00",
        b"\x00\x00\x00\x20ftypM4A ",
    ],
    "video": [b"\x00\x00\x00\x18ftypmp42", b"\x1aE\xdf\xa3", b"RIFF\x00\x00\x00\x00AVI LIST", TS],
    "archive": [
        b"PK\x03\x04\x14\x00",
        b"Rar!\x1a\x07\x00",
        b"7z\xbc\xaf\x27\x1c",
        b"\x1f\x8b\x08",
        b"BZh9\x00",
        b"x" * 100 + bytes(157) + b"ustar",
    ],
    "office": [
        b"PK\x03\x04\x14\x00[Content_Types].xml",
        b"PK\x03\x04\x00mimetypeapplication/vnd.oasis.opendocument",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    ],
    "program": [b"MZ\x90\x00\x03", b"\x7fELF\x02\x01", b"\xca\xfe\xba\xbe", b"\x00asm\x01"],
    "data": [b"SQLite format 3\x00", b"GGUF\x03\x00"],
    "unknown": [
        b"MZ is how it begins",
        b"ID3 tags explained",
        b"BM, my friend",
        b"PK\x03",
        b"RIFF raff",
        b"G" * 800,
        b"",
        b"{}",
        b"<svg/>",
    ],
}


@pytest.mark.parametrize(("kind", "head"), [(kind, head) for kind, heads in HEADS.items() for head in heads])
def test_the_first_bytes_decide(kind: str, head: bytes):
    assert sniff(head) == kind


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("images_allowed", [True, False])
def test_one_sentence_for_each_kind(kind: str, images_allowed: bool):
    readable = {"pdf", "unknown"} | ({"image"} if images_allowed else set())
    try:
        found = check_head(HEADS[kind][0], images_allowed=images_allowed)
    except FileRefused as refused:
        assert kind not in readable
        assert_one_sentence(refused.reason_text)
    else:
        assert found == kind
        assert kind in readable


def assert_one_sentence(text: str) -> None:
    assert text[0].isupper()
    assert text.endswith(".")
    assert ". " not in text.replace("MiB. ", "")
    assert "\n" not in text
    assert len(text) <= 120


@pytest.mark.parametrize("name", [name for name in vars(reasons) if name.isupper() and "_" not in (name[0], name[-1])])
def test_every_reason_is_one_sentence(name: str):
    assert_one_sentence(getattr(reasons, name))


@pytest.mark.parametrize(
    ("content_type", "size", "is_voice", "reason"),
    [
        ("audio/ogg", 100, True, reasons.VOICE),
        ("text/plain", 0, False, reasons.EMPTY),
        ("text/plain; charset=utf-8", 1001, False, reasons.too_large(1001, 1000)),
        ("application/json", 1001, False, reasons.too_large(1001, 1000)),
        ("application/pdf", 5001, False, reasons.too_large(5001, 5000)),
        (None, 5001, False, reasons.too_large(5001, 1000)),
        ("video/mp4", 5001, False, "I cannot watch videos; please describe it in words."),
        ("application/zip", 5001, False, reasons.of_kind("archive", images_allowed=False)),
        ("image/png", 5001, False, reasons.NO_IMAGES),
    ],
)
def test_refused_before_it_is_loaded(content_type: str | None, size: int, is_voice: bool, reason: str):
    offer = OfferedFile("x", content_type, size, "https://cdn.discordapp.com/x", is_voice)
    with pytest.raises(FileRefused) as caught:
        check_offer(offer, LIMITS, images_allowed=False)
    assert caught.value.reason_text == reason
    assert_one_sentence(reason)


@pytest.mark.parametrize(
    "content_type", ["video/mp2t", "application/zip", "image/png", "audio/mpeg", None, "text/plain"]
)
def test_a_declared_type_alone_refuses_nothing_small(content_type: str | None):
    check_offer(OfferedFile("main.ts", content_type, 900, "https://x"), LIMITS, images_allowed=False)


def test_the_largest_of_each_is_read():
    for content_type, size in (("text/plain", 1000), ("application/pdf", 5000), ("image/png", 5000)):
        check_offer(OfferedFile("x", content_type, size, "https://x"), LIMITS, images_allowed=True)


@pytest.mark.parametrize(
    ("content_type", "charset"),
    [
        ("text/plain; charset=utf-8", "utf-8"),
        ('text/x; a=b; Charset="KOI8-R"', "KOI8-R"),
        ("text/plain", None),
        (None, None),
    ],
)
def test_the_declared_charset(content_type: str | None, charset: str | None):
    assert declared_charset(content_type) == charset


@pytest.mark.parametrize(
    ("size", "text"),
    [(1, "1 byte"), (900, "900 bytes"), (256 << 10, "256 KiB"), (1_600_000, "1.5 MiB"), (8 << 20, "8 MiB")],
)
def test_amounts(size: int, text: str):
    assert reasons.amount(size) == text


def test_limits_come_from_the_settings():
    settings = Settings(_env_file=None, max_files=2, max_file_size="1MiB", max_raw_file_size="512KiB")
    assert FileLimits.of(settings) == FileLimits(2, 1 << 20, 1 << 20)
    assert FileLimits.of(Settings(_env_file=None)) == FileLimits()
