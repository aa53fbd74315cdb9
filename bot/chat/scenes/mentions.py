"""Which character a message names. Pure functions.

A name counts as a word of its own. Korean sets particles right behind a name, and some scripts set nothing between
words: there a name may have such neighbours.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_PARTICLES = (
    "에게서|한테서|께서는|이라고|이라는|으로|에게|한테|께서|이랑|하고|라고|라는|부터|까지|처럼|보다|마저|조차|밖에|이나|"
    "이야|이여|이며|이고|에서|이는|이가|이도|이를|이와|이의|"
    "님|씨|은|는|이|가|을|를|아|야|여|와|과|랑|도|만|께|의|에|로|나|며|고"
)
_KOREAN_END = re.compile(f"(?:{_PARTICLES}){{0,3}}")
_CALLING_MARKS = {",", ";", "!", "?", "…", "、", "。", "\u2014"}
_SPACED_MARKS = {":", ".", "\u2013", "-"}
"""Those that call only with a space behind them: without one they also stand within words, addresses and emoji."""
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""Scripts that set no spaces between words, by how the names of their letters begin."""


def named_character(text: str, names: Sequence[str]) -> int | None:
    """The index of the name that the text has first, the longest one where several begin there; None without any."""
    folded = _folded(text)
    found: list[tuple[int, int, int]] = []
    for index, name in enumerate(names):
        wanted = _folded(name)
        start = folded.find(wanted) if wanted else -1
        while start >= 0:
            if _is_word(folded, start, start + len(wanted)):
                found.append((start, -len(wanted), index))
                break
            start = folded.find(wanted, start + 1)
    return min(found)[2] if found else None


def called_character(text: str, names: Sequence[str]) -> int | None:
    """The index of the name with which the text calls somebody: "Anne, …", "…, Anne?", or nothing else."""
    folded = _folded(text)
    starts = {0, next((at for at, each in enumerate(folded) if each.isalnum()), 0)}
    wanted_names = [(index, wanted) for index, wanted in enumerate(map(_folded, names)) if wanted]
    opening = [
        (-len(wanted), index)
        for index, wanted in wanted_names
        if any(folded.startswith(wanted, start) and _is_call(folded, start + len(wanted)) for start in starts)
        and not folded.startswith(f":{wanted}:")  # an emoji
    ]
    closing = [(-len(wanted), index) for index, wanted in wanted_names if _closes(folded, wanted)]
    return min(opening or closing)[1] if opening or closing else None


def _closes(text: str, name: str) -> bool:
    """Whether the text ends with a comma or the like, this name, and nothing but marks after it."""
    start = text.rfind(name)
    if start <= 0 or any(each.isalnum() for each in _after_particles(text, start + len(name))):
        return False
    before = text[:start].rstrip("@")
    mark = before.rstrip(" @")[-1:]
    return mark in _CALLING_MARKS or (mark in _SPACED_MARKS and before[-1] == " ")


def _after_particles(text: str, end: int) -> str:
    particles = _KOREAN_END.match(text, end)
    return text[particles.end() if particles else end :]


def _is_call(text: str, end: int) -> bool:
    """Whether a name that ends here calls somebody: nothing follows it, or a mark that is no apostrophe or hyphen."""
    after = _after_particles(text, end).lstrip()[:1]
    return not after or (after not in "'\u2019-_" and unicodedata.category(after)[0] == "P")


def _folded(text: str) -> str:
    """Without differences of case and width, without what cannot be seen, with single spaces."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join("".join(each for each in plain if unicodedata.category(each) != "Cf").split())


def _is_word(text: str, start: int, end: int) -> bool:
    before, after = text[start - 1 : start], text[end : end + 1]
    if _joined(before, text[start]):
        return False
    if not _joined(after, text[end - 1]):
        return True
    if "\uac00" <= after <= "\ud7a3":
        found = _KOREAN_END.match(text, end)
        rest = text[found.end() : found.end() + 1] if found else after
        return bool(found and found[0]) and not rest.isalnum()
    return False


def _joined(neighbour: str, letter: str) -> bool:
    """Whether a neighbour makes one word with a letter of the name."""
    if not neighbour or not (neighbour.isalnum() or unicodedata.category(neighbour)[0] == "M"):
        return False
    return letter.isalnum() and not _is_unspaced(neighbour) and not _is_unspaced(letter)


def _is_unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_UNSPACED)
