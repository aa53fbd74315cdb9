"""Which of a model's notes are kept, and in what form. Pure functions.

A model's output is as untrusted as what it has read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

from bot.memory.words import content_words, scripts, words
from bot.text import clean_text

MAX_FACT = 200
"""Characters of a fact."""
MAX_LINE = 300
"""Characters of what a summary says of one part of a dialog."""
MAX_SUMMARY = 1200
"""Characters of a whole summary."""
_SHORTEST_FACT = 4
_SUPPORT = 0.5
_SAME_SCRIPT = 0.8
_MENTION = re.compile(r"<[@#:/at]|@everyone|@here|[a-z]+://|\bwww\.|\bdiscord(?:app)?\.(?:gg|com)/", re.IGNORECASE)
"""A mention in Discord's form, a link or an invitation."""
_BRACKETS = str.maketrans("[]{}<>`", "()()()'")
"""A note cannot close the frame that it stands in, nor open another one."""
_SPOKEN = re.compile(r"(?:\A|\s)(?:user|assistant|system)\s*:", re.IGNORECASE)
_QUESTION = re.compile(r"(?:(?<=[.!,;:\n。，！；：、])|\A)[^.!,;:?\n。，！；：、？؟]*[?？؟]+")


def without_questions(text: str) -> str:
    """A message without its questions: they tell little about who asks, and small models take them for statements.

    Of "I am vegan, what can I cook?" the first half stays.
    """
    return " ".join(_QUESTION.sub(" ", text).split())


def one_line(text: str, limit: int) -> str:
    """A note as one line of visible text without brackets, cut at a word if it is too long."""
    line = " ".join(_visible(text).translate(_BRACKETS).split())
    if len(line) <= limit:
        return line
    cut = line[: limit - 1]
    return (cut.rsplit(" ", 1)[0] if " " in cut[limit // 2 :] else cut).rstrip(" ,;:") + "…"


def _visible(text: str) -> str:
    """The text without characters that show nothing, and with spaces for those that control something."""
    return "".join(
        " " if each.isspace() or unicodedata.category(each) in ("Cc", "Zl", "Zp") else each
        for each in clean_text(text)
        if each.isspace() or unicodedata.category(each) not in ("Cf", "Co", "Cn")
    )


def clean_fact(note: str, *, message: str, others: Collection[str] = ()) -> str:
    """A fact of the model as it is kept; "" for nonsense, for what the message does not say, or for another member.

    `others`: the names of the other members in the dialog. A mention counts as the name of another one.
    """
    if len(note) > 2 * MAX_FACT or _MENTION.search(unicodedata.normalize("NFKC", _visible(note))):
        return ""
    fact = one_line(note, MAX_FACT)
    if len(fact) < _SHORTEST_FACT or not _is_supported(fact, message) or _names(fact, others):
        return ""
    return fact


def clean_summary_line(note: str) -> str:
    """What a model writes about a part of a dialog; "" if it repeats the dialog itself."""
    line = one_line(note, MAX_LINE)
    if len(line) >= MAX_LINE - 1 and (end := max(line.rfind(mark) for mark in ".!?;。！？")) > MAX_LINE // 3:
        line = line[: end + 1]  # a sentence that a limit cut says something else
    return "" if len(line) < _SHORTEST_FACT or _SPOKEN.search(line) else line


def _is_supported(fact: str, message: str) -> bool:
    """Whether a fact has the words of the message: small models also write what they were shown as an example."""
    said, told = content_words(fact), content_words(message)
    # "The user" or its like in another language is in no message.
    if not said & told or len(said & told) < _SUPPORT * max(1, len(said) - 2):
        return False
    known = scripts(message)  # a small model that answers in English has often not understood
    return sum(share for script, share in scripts(fact).items() if script in known) >= _SAME_SCRIPT


def _names(fact: str, others: Collection[str]) -> bool:
    """Whether a fact has the name of another member, in any case and with a different ending."""
    said = words(fact)
    for name in others:
        of_name = [word for word in words(name) if not word.endswith("*")]
        if of_name and all(word in said or any(each.startswith(word) for each in said) for word in of_name):
            return True
    return False
