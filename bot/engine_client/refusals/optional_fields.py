"""Finds the optional field of a request that a refusal names. Knows sentences; remembers nothing."""

from __future__ import annotations

import re
from collections.abc import Collection

from bot.engine_client.refusals.refusal import Refusal

_EXTENSIONS = ("cache_salt", "stream_options", "user")
"""The fields to try without, in this order, where a refusal speaks of a field and names none."""
_ANY_FIELD = re.compile(
    r"(?:unrecogni[sz]ed|unknown|unsupported|unexpected|extra|additional|not (?:supported|permitted|allowed))[^.]{0,30}"
    r"(?:field|param|argument|input|propert|key|option)|(?:field|param|argument|input|propert|key|option)\w*[^.]{0,30}"
    r"(?:unrecogni[sz]ed|unknown|unsupported|unexpected|not (?:supported|permitted|allowed))",
    re.IGNORECASE,
)
_TOGETHER = re.compile(r"\bboth\b|together|simultaneous|at the same time|only one of", re.IGNORECASE)
_ROLES = re.compile(r"\broles?\b", re.IGNORECASE)
"""A refusal that speaks of roles means a message's `user`."""
_WORDS = {"user", "stop", "seed", "n"}
"""Names that are words as well: they count only in quotes, after a colon, or next to a word for a field."""


def refused_field(refusal: Refusal, sent: Collection[str]) -> str | None:
    """The field among those in `sent` that the server turns down, or None if it complains of something else."""
    for param in refusal.params:
        names = re.split(r"[.\[\]/]+", param)
        for name in (param, *reversed(names)):
            if name in sent:
                return name
    text = refusal.text.replace('\\"', '"')  # JSON in a sentence
    speaks_of_roles = _ROLES.search(text)
    named = sorted(
        (found.start(), name)
        for name in sent
        if not (name == "user" and speaks_of_roles) and (found := _mention(name).search(text))
    )
    if named:
        names = [name for _, name in named]
        if {"temperature", "top_p"} <= set(names) and _TOGETHER.search(text):
            return "top_p"  # models that take one of them
        return names[0]
    if _ANY_FIELD.search(text):
        return next((name for name in _EXTENSIONS if name in sent), None)
    return None


def _mention(name: str) -> re.Pattern[str]:
    spelt = re.escape(name).replace("_", "[_ ]?")  # also as cacheSalt or "cache salt"
    if name not in _WORDS:
        return re.compile(rf"(?<![A-Za-z0-9]){spelt}(?![A-Za-z0-9])", re.IGNORECASE)
    field = r"(?:field|param\w*|argument|key|option|property)"
    return re.compile(
        rf"""['"`.]{spelt}['"`]|:\s*{spelt}\b(?!\s+\w)|{field}:?\s+{spelt}\b|\b{spelt}\s+{field}|^{spelt}:|\.{spelt}:""",
        re.IGNORECASE,
    )
