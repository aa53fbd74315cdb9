"""Names of files: short, visible and without markup."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.attachments.names import MAX_NAME_CHARS, clean_name


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("notes.md", "notes.md"),
        ("__init__.py", "__init__.py"),
        ("Übung 3.txt", "Übung 3.txt"),
        ("a\x00b\x1b[31m.txt", "ab_31m.txt"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("x\u2066y\u2069\u200b\ufeff.txt", "xy.txt"),
        ("**bold** `code` <@123>.txt", "_bold_ _code_ _123_.txt"),
        ("@everyone.txt", "_everyone.txt"),
        ("[x](https://evil.example).txt", "_x_https_evil.example_.txt"),
        ("../../etc/passwd", ".._.._etc_passwd"),
        ("a\nb\r\nc.txt", "a b c.txt"),
        (".env", ".env"),
        ("Makefile", "Makefile"),
        ("", "file"),
        ("\u202e\u200b", "file"),
        ("...", "file"),
        ("名前.txt", "名前.txt"),
    ],
)
def test_cleaned(name: str, cleaned: str):
    assert clean_name(name) == cleaned


def test_a_long_name_keeps_its_ending():
    cleaned = clean_name("a" * 300 + ".tar")
    assert len(cleaned) == MAX_NAME_CHARS
    assert cleaned.endswith("….tar")
    assert len(clean_name("b" * 300)) == MAX_NAME_CHARS


@given(st.text(max_size=300))
def test_any_name(name: str):
    cleaned = clean_name(name)
    assert 0 < len(cleaned) <= MAX_NAME_CHARS
    assert clean_name(cleaned) == cleaned
    assert not any(unicodedata.category(character)[0] == "C" for character in cleaned)
    assert not set(cleaned) & set('`*~|<>[](){}"\\/@#:\n\r\t')
