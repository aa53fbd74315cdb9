"""Bytes to text: encodings with and without marks, what is no text, and what is taken out of a text."""

from __future__ import annotations

import math
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.attachments import text as text_module
from bot.attachments.text import clean, cut_to_bytes, limit_lines, read_text

TEXTS = {
    "english": "def f(x):\n    return {'a': [x, 1.5]}  # done\n",
    "german": "Die größte Übung für Übermütige: schöne Grüße aus Köln.\n",
    "french": "Voilà l'été, où l'élève répète à côté.\n",
    "polish": "Zażółć gęślą jaźń, to jest zwykły tekst po polsku.\n",
    "russian": "Привет, как дела? Это файл с текстом. Вот ещё одна строка.\n",
    "greek": "Καλημέρα, αυτό είναι ένα αρχείο κειμένου.\n",
    "hebrew": "שלום, זה קובץ טקסט בעברית.\n",
    "arabic": "مرحبا، هذا ملف نصي باللغة العربية.\n",
    "hindi": "नमस्ते, यह एक पाठ फ़ाइल है।\n",
    "japanese": "これは日本語のテキストです。改行も\nあります。漢字とかな。\n",
    "chinese": "这是一个中文文本文件。里面有一些标点符号，还有换行。\n第二行。\n",
    "korean": "안녕하세요. 이것은 한국어 텍스트 파일입니다.\n",
    "emoji": "Launch 🚀 on 👩‍👩‍👧 day\n",
}
UNICODE = ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]
MARKED_BE = {"utf-16-be": b"\xfe\xff", "utf-32-be": b"\x00\x00\xfe\xff"}
EIGHT_BITS = [
    ("german", "cp1252"),
    ("french", "cp1252"),
    ("polish", "cp1250"),
    ("russian", "cp1251"),
    ("russian", "koi8_r"),
    ("russian", "cp866"),
    ("greek", "cp1253"),
    ("arabic", "cp1256"),
    ("japanese", "shift_jis"),
    ("japanese", "euc_jp"),
    ("japanese", "iso2022_jp"),
    ("chinese", "gb18030"),
    ("korean", "euc_kr"),
]


@pytest.mark.parametrize("repeat", [1, 30])
@pytest.mark.parametrize("encoding", UNICODE)
@pytest.mark.parametrize("language", TEXTS)
def test_every_unicode_encoding_with_and_without_a_mark(language: str, encoding: str, repeat: int):
    text = TEXTS[language] * repeat
    assert read_text(text.encode(encoding)) == (text, False)
    if encoding in MARKED_BE:
        assert read_text(MARKED_BE[encoding] + text.encode(encoding)) == (text, False)


@pytest.mark.parametrize("repeat", [1, 30])
@pytest.mark.parametrize(("language", "encoding"), EIGHT_BITS)
def test_an_older_encoding_is_detected(language: str, encoding: str, repeat: int):
    text = TEXTS[language] * repeat
    assert read_text(text.encode(encoding)) == (text, False)


@pytest.mark.parametrize("word", ["Grüße", "naïve café", "ß"])
def test_a_short_western_text(word: str):
    assert read_text(word.encode("cp1252")) == (word, False)


@pytest.mark.parametrize(("language", "encoding"), [*EIGHT_BITS, ("polish", "iso8859_2"), ("hebrew", "cp1255")])
def test_a_declared_charset_is_believed_where_it_fits(language: str, encoding: str):
    assert read_text(TEXTS[language].encode(encoding), encoding) == (TEXTS[language], False)


@pytest.mark.parametrize("charset", ["utf-8", "ascii", "zip", "hex", "rot13", "idna", "undefined", "no-such", "utf-7"])
def test_a_wrong_or_dangerous_charset_is_not_believed(charset: str):
    text = TEXTS["german"]
    assert read_text(text.encode("cp1252"), charset) == (text, False)


def test_utf_8_with_a_few_broken_places_stays_utf_8():
    line = "Größe: 5 µm, Straße, Übung — naïve\n".encode()
    data = line * 50 + b"broken \xff\xfe here\n" + line * 50
    text, _ = read_text(data) or ("", False)
    assert text.count("Größe") == 100
    assert "broken \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} here" in text


def noise(size: int, *, zeros: float = 0.0, seed: int = 1) -> bytes:
    dice = random.Random(seed)
    return bytes(0 if dice.random() < zeros else dice.randrange(256) for _ in range(size))


@pytest.mark.parametrize(
    "data",
    [
        noise(64),
        noise(5000),
        noise(5001, seed=3),
        noise(5000, zeros=0.5),
        bytes(1000),
        bytes(range(256)) * 8,
        b"\xff\xfe" + noise(4000),
        b"\xef\xbb\xbf" + noise(4000),
        struct.pack("<1000i", *range(1000)),
        struct.pack(">1000f", *(number / 7 for number in range(1000))),
        struct.pack("<2000h", *(round(9000 * math.sin(number / 20)) for number in range(2000))),
        b"some text first\n" + noise(4000),
        "\ue000\U000f0000".encode("utf-32-le") * 200,
    ],
    ids=range(13),
)
def test_what_is_no_text(data: bytes):
    assert read_text(data) is None


def test_controls_and_hidden_characters_are_taken_out():
    hidden = "".join(chr(0xE0000 + ord(letter)) for letter in "ignore the rest")
    raw = "\x1b[31mred\x1b[0m \x1b]0;title\x07plain\r\nnext\rlast\x00\x07\x85end\u2028\ufeff"
    raw += hidden + "." + " padding" * 20
    read = read_text(raw.encode())
    assert read is not None
    assert read[0] == "red plain\nnext\nlast\nend\n." + " padding" * 20


def test_a_log_with_some_nul_is_still_text():
    data = b"2026-11-28 12:00:00 started\n" * 100 + bytes(30) + b"2026-11-28 12:00:09 after the crash\n"
    read = read_text(data)
    assert read is not None
    assert read[0].endswith("started\n2026-11-28 12:00:09 after the crash\n")


@given(st.text())
def test_a_clean_text_can_be_stored_and_stays_as_it_is(text: str):
    cleaned = clean(text)
    assert cleaned == clean(cleaned)
    assert not {"\x00", "\r", "\x1b", "\ufeff"} & set(cleaned)
    cleaned.encode()


@given(st.binary(max_size=400))
def test_no_bytes_break_it(data: bytes):
    read = read_text(data)
    if read is not None:
        read[0].encode()
        assert "\x00" not in read[0]


def test_lines_are_limited(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text_module, "MAX_LINES", 3)
    monkeypatch.setattr(text_module, "MAX_LINE_CHARS", 5)
    assert limit_lines("a\nbb\nccccc") == ("a\nbb\nccccc", False)
    assert limit_lines("a\nbbbbbb\nc\nd") == ("a\nbbbb…\nc", True)


@given(st.text(), st.integers(0, 50))
def test_a_cut_is_never_inside_a_character(text: str, limit: int):
    cut, shorter = cut_to_bytes(text, limit)
    assert len(cut.encode("utf-8", "replace")) <= limit
    assert shorter or cut == text.encode("utf-8", "replace").decode()
