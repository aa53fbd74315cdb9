"""The words of a text, to compare texts in any language without a model. Pure functions.

Scripts with spaces have words, of which the beginning counts as well: "live" finds "lives". Korean, Japanese, Chinese,
Thai and their neighbours have pairs of neighbouring characters instead.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_PREFIX = 4
"""Letters of a word's beginning: of a longer one most languages change the end."""
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana and Han
    "\u1100-\u11ff\uac00-\ud7af"  # Hangul: its words carry their particles
)
_RUN = re.compile(rf"[{_UNSPACED}]+|[^\W_{_UNSPACED}]+")
_UNSPACED_RUN = re.compile(rf"[{_UNSPACED}]")


def words(text: str) -> Counter[str]:
    """The words of a text with how often each occurs; of one of four letters or more the beginning too ("live*")."""
    found: Counter[str] = Counter()
    for run in _RUN.findall(_plain(text)):
        if _UNSPACED_RUN.match(run):
            found.update(run[index : index + 2] for index in range(max(1, len(run) - 1)))
        else:
            found[run] += 1
            if len(run) >= _PREFIX:
                found[f"{run[:_PREFIX]}*"] += 1
    return found


def content_words(text: str) -> set[str]:
    """The words that may say something: beginnings, of three letters at least, numbers, pairs of characters."""
    return {
        word
        for word in words(text)
        if word.endswith("*") or len(word) == _PREFIX - 1 or word[0].isdigit() or _UNSPACED_RUN.match(word)
    }


def scripts(text: str) -> dict[str, float]:
    """The scripts of a text's letters, each with its share of them: {"LATIN": 0.7, "HANGUL": 0.3}."""
    found = Counter(_script(each) for each in text if each.isalpha())
    return {script: count / found.total() for script, count in found.items()}


def says_the_same(one: str, other: str) -> bool:
    """Whether two sentences have nearly the same words: "The user lives in Bergen." and "the user LIVES in Bergen"."""
    first, second = set(words(one)), set(words(other))
    return bool(first | second) and len(first & second) >= 0.85 * len(first | second)


def _script(letter: str) -> str:
    script = unicodedata.name(letter, "").split(" ")[0].split("-")[0]
    return "CJK" if script in ("HIRAGANA", "KATAKANA", "HALFWIDTH") else script


def _plain(text: str) -> str:
    """Without accents and case, so that "Tromsø" and "tromsö" are near; Hangul stays composed."""
    folded = unicodedata.normalize("NFKD", text).casefold()
    return unicodedata.normalize("NFC", "".join(each for each in folded if unicodedata.category(each) != "Mn"))
