"""Replaces the macros of cards, `{{char}}` and the others of version 3, in one pass over the text. Pure.

What a macro became is never read again: a member called `{{char}}` stays so. Macros may stand in one another, up to a
depth; the text grows to a limit at most; both bound the work. Unknown macros stay as they are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

MAX_DEPTH = 24
"""Of macros within macros. What is deeper stays as it is written."""
MAX_CHARS = 400_000
"""Of what a text becomes; the rest is cut off."""
MAX_SIDES = 1_000_000_000_000
_TOKENS = re.compile(r"\{\{|\}\}|<(?:user|bot|char)>", re.IGNORECASE)
_ROLL = re.compile(r"\s*[dD]?\s*(\d{1,13})\s*\Z")
_COMMAS = re.compile(r"(?<!\\),")
_COLONS = re.compile("::")
_NAME = re.compile(r"\{\{\s*(//|[A-Za-z_][A-Za-z0-9_]{0,30})\s*(?=[:}\s])")
_NAMES = re.compile(r"\{\{(char|user)\}\}", re.IGNORECASE)
Piece = tuple[str, bool]
"""A text, and whether it came out of a macro: then no comma in it separates anything."""


@dataclass(frozen=True, slots=True)
class Macros:
    """What the macros stand for. `seed` decides what `random` and `roll` take, `pick_seed` what `pick` takes."""

    char: str
    user: str
    original: str | None = None
    """What `{{original}}` stands for; None: it is no macro here."""
    seed: str = ""
    pick_seed: str = ""
    hidden_keys: Literal["drop", "keep"] = "drop"
    """Whether the words of `{{hidden_key:…}}` are kept: only to be searched for the keys of a lorebook."""


def expand(text: str, macros: Macros, limit: int = MAX_CHARS) -> str:
    """The text with its macros replaced, of at most `limit` characters."""
    if "{{" not in text and "<" not in text:
        return text[:limit]
    stack: list[list[Piece]] = [[]]
    skipped = size = position = num_macros = 0
    for token in _TOKENS.finditer(text):
        if size > limit:
            break
        if token.start() > position:
            stack[-1].append((text[position : token.start()], False))
            size += token.start() - position
        position, found = token.end(), token[0]
        size += 2 if found in ("{{", "}}") else 0  # so that empty macros are bounded as well
        if found == "{{" and len(stack) > MAX_DEPTH:
            skipped += 1
            stack[-1].append((found, False))
        elif found == "{{":
            stack.append([])
        elif found == "}}" and (skipped or len(stack) == 1):
            skipped = max(0, skipped - 1)
            stack[-1].append((found, False))
        elif found == "}}":
            num_macros += 1
            pieces = _value(stack.pop(), macros, num_macros)
            size += sum(len(piece) for piece, is_value in pieces if is_value)
            stack[-1].extend(pieces)
        else:
            value = macros.user if found.lower() == "<user>" else macros.char
            stack[-1].append((value, True))
            size += len(value)
    stack[-1].append((text[position:], False))
    whole = "{{".join("".join(piece for piece, _ in pieces) for pieces in stack)  # what was opened and never closed
    return whole[:limit]


def expand_names(text: str, char: str, user: str) -> str:
    """Only `{{char}}` and `{{user}}` replaced, as in a persona that is no card."""
    if "{{" not in text:
        return text
    return _NAMES.sub(lambda found: char if found[1].lower() == "char" else user, text)


def unknown_macros(text: str) -> tuple[str, ...]:
    """The names of what looks like macros in this text and is none here: it stays as it is written."""
    known = {"char", "user", "original", "comment", "//", *_WITH_ARGUMENTS}
    names = dict.fromkeys(found[1].strip().lower() for found in _NAME.finditer(text))
    return tuple(name for name in names if name not in known)


def _value(pieces: list[Piece], macros: Macros, number: int) -> list[Piece]:
    """What a macro with this content becomes."""
    content = "".join(piece for piece, _ in pieces)
    if content.startswith("//"):
        return []
    name, colon, _ = content.partition(":")
    name = name.strip().lower()
    if not colon:
        values = {"char": macros.char, "user": macros.user, "original": macros.original}
        if (value := values.get(name)) is not None:
            return [(value, True)]
    elif name == "comment":
        return []
    elif (evaluate := _WITH_ARGUMENTS.get(name)) is not None:
        value = evaluate(_after_colon(pieces), macros, number)
        if value is not None:
            return [(value, True)]
    return [("{{", False), *pieces, ("}}", False)]


def _random(pieces: list[Piece], macros: Macros, number: int) -> str:
    options = _options(pieces)
    return options[_choice(macros.seed, number, len(options))]


def _pick(pieces: list[Piece], macros: Macros, number: int) -> str:
    options = _options(pieces)
    return options[_choice(macros.pick_seed, number, len(options))]


def _roll(pieces: list[Piece], macros: Macros, number: int) -> str | None:
    found = _ROLL.match(_joined(pieces))
    sides = int(found[1]) if found else 0
    return str(1 + _choice(macros.seed, number, sides)) if 0 < sides <= MAX_SIDES else None


def _reverse(pieces: list[Piece], macros: Macros, number: int) -> str:
    return _joined(pieces)[::-1]


def _hidden(pieces: list[Piece], macros: Macros, number: int) -> str:
    return _joined(pieces) if macros.hidden_keys == "keep" else ""


_WITH_ARGUMENTS: dict[str, Callable[[list[Piece], Macros, int], str | None]] = {
    "random": _random,
    "pick": _pick,
    "roll": _roll,
    "reverse": _reverse,
    "hidden_key": _hidden,
}


def _after_colon(pieces: list[Piece]) -> list[Piece]:
    """The pieces without the macro's name; some cards write two colons."""
    rest: list[Piece] = []
    is_argument = False
    for piece, is_value in pieces:
        if is_argument:
            rest.append((piece, is_value))
        elif ":" in piece:
            is_argument = True
            rest.append((piece.partition(":")[2].removeprefix(":"), is_value))
    return rest


def _options(pieces: list[Piece]) -> list[str]:
    """What the commas separate. One after a backslash is a comma, and so is one that a macro has brought.

    SillyTavern also separates by two colons, and then no comma separates.
    """
    separator = _COLONS if any("::" in piece for piece, is_value in pieces if not is_value) else _COMMAS
    options: list[list[str]] = [[]]
    for piece, is_value in pieces:
        if is_value:
            options[-1].append(piece)
            continue
        first, *others = separator.split(piece)
        options[-1].append(first.replace("\\,", ","))
        options.extend([other.replace("\\,", ",")] for other in others)
    return ["".join(option) for option in options]


def _joined(pieces: list[Piece]) -> str:
    return "".join(piece for piece, _ in pieces)


def _choice(seed: str, number: int, count: int) -> int:
    """One of `count`, always the same for a seed and the number of the macro in its text."""
    digest = hashlib.blake2b(f"{seed}\0{number}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest) % count
