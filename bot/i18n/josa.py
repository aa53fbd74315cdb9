"""Korean particles, whose form depends on the sound that the word before them ends with. Pure.

A translation names the particle by both of its forms: `{name}{은는}` becomes "라마는" or "달은". What stands between
them, such as the end of bold or a quotation mark, is looked through. The end of a Latin word is guessed, as it is read
aloud in Korean; where nothing tells it, as after a mention, both forms are written: "은(는)".
"""

from __future__ import annotations

import re
from string import Formatter
from typing import Any

# After a final consonant, after a vowel, and where the sound is not known.
PARTICLES = {
    "은는": ("은", "는", "은(는)"),
    "이가": ("이", "가", "이(가)"),
    "을를": ("을", "를", "을(를)"),
    "과와": ("과", "와", "와(과)"),
    "으로": ("으로", "로", "(으)로"),
    "이라": ("이라", "라", "(이)라"),
    "이나": ("이나", "나", "(이)나"),
}
_MARKER = re.compile("{(" + "|".join(PARTICLES) + ")}")
_FIRST, _LAST, _NUM_FINALS = 0xAC00, 0xD7A3, 28
_RIEUL = "ㄹ"
"""The one final consonant after which the particle 으로 is 로."""
_FINAL_RIEUL = 8
# How digits and letters are read: the final consonant, "" for a vowel. Only ㄹ matters by itself.
_DIGITS = dict(zip("0123456789", ("ㅇ", "ㄹ", "", "ㅁ", "", "", "ㄱ", "ㄹ", "ㄹ", ""), strict=True))
_SPELT = {"l": _RIEUL, "m": "ㅁ", "n": "ㄴ", "r": _RIEUL}
_UNSEEN = "*_~`'\"”’)]}》」』|\\"
"""Marks that are not read; a mention of Discord ends with `>` and is not among them."""
_VOWELS = "aeiou"
_STOPS = {"b": "ㅂ", "c": "ㄱ", "k": "ㄱ", "p": "ㅂ", "t": "ㅅ"}
_BEFORE_SILENT_E = {"l": _RIEUL, "m": "ㅁ", "n": "ㄴ"}


def has_particles(text: str) -> bool:
    """Whether a translation names particles."""
    return _MARKER.search(text) is not None


def without_particles(text: str) -> str:
    """The translation with what it says besides: its other placeholders are then those of the original."""
    return _MARKER.sub("", text)


def format_korean(template: str, /, *args: Any, **values: Any) -> str:
    """As `str.format`, with each particle in the form that what stands before it asks for."""
    done = ""
    for literal, name, spec, conversion in Formatter().parse(template):
        done += literal
        if name in PARTICLES:
            done += particle(done, name)
        elif name is not None:
            field = "{" + name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "") + "}"
            done += field.format(*args, **values)
    return done


def particle(before: str, name: str) -> str:
    """The form of a particle after this text."""
    after_consonant, after_vowel, unknown = PARTICLES[name]
    final = final_consonant(before)
    if final is None:
        return unknown
    if not final or (name == "으로" and final == _RIEUL):
        return after_vowel
    return after_consonant


def final_consonant(text: str) -> str | None:
    """The consonant that a text ends with when it is read aloud; "" for a vowel, None where that is not known."""
    word = text.rstrip(_UNSEEN + " ")
    if not word:
        return None
    last = word[-1]
    if _FIRST <= ord(last) <= _LAST:
        final = (ord(last) - _FIRST) % _NUM_FINALS
        return _RIEUL if final == _FINAL_RIEUL else "ㄱ" if final else ""
    if last in _DIGITS:
        return _of_number(word)
    if last == "%":
        return ""  # 퍼센트
    found = re.search("[A-Za-z]+$", word)
    return None if found is None else _of_word(found[0])


def _of_number(text: str) -> str:
    """십, 백, 천, 만 and 억 end with consonants, 조 with a vowel; other numbers end as their last digit."""
    digits = text[len(text.rstrip("0123456789,")) :].replace(",", "")
    zeros = len(digits) - len(digits.rstrip("0"))
    if not zeros or zeros == len(digits):
        return _DIGITS[digits[-1]]
    return "" if 12 <= zeros < 16 else "ㄱ"


def _of_word(word: str) -> str:
    """A guess: an abbreviation is spelt, another word read as Korean takes over English words."""
    if word.isupper():
        return _SPELT.get(word[-1].lower(), "")
    word = word.lower()
    last, before = word[-1], word[-2:-1]
    if len(word) == 1:
        return _SPELT.get(last, "")
    if word.endswith("ng"):
        return "ㅇ"
    if word.endswith("ck"):
        return "ㄱ"
    if last == "e" and before in _BEFORE_SILENT_E and len(word) > 3:
        return _BEFORE_SILENT_E[before]
    if last in _STOPS:
        # A short vowel before it: 봇, 북, 팁; else it has a vowel of its own: 노트, 테스트, 데스크.
        short = before in _VOWELS and (word[-3:-2] not in _VOWELS or word.endswith("ook"))
        return _STOPS[last] if short else ""
    return {"l": _RIEUL, "m": "ㅁ", "n": "ㄴ"}.get(last, "")
