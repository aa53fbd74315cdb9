"""The differences between two versions of a text: lines that are the same, gone or new, and in changed lines the words.

Bounded: of long lines that changed, only whole lines are told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

_MAX_LINES = 2000
_MAX_WORDS = 400
Kind = Literal["same", "gone", "new"]
Piece = tuple[Kind, str]


@dataclass(frozen=True, slots=True)
class DiffLine:
    """A line of the comparison; `pieces` has its words, each the same in both versions or not."""

    kind: Kind
    pieces: tuple[Piece, ...]


def differences(before: str, after: str) -> list[DiffLine]:
    """The lines of both, in one order."""
    old, new = before.splitlines() or [""], after.splitlines() or [""]
    if max(len(old), len(new)) > _MAX_LINES:
        return [*_whole("gone", old), *_whole("new", new)]
    lines: list[DiffLine] = []
    for tag, i, j, m, n in SequenceMatcher(None, old, new).get_opcodes():
        if tag == "equal":
            lines += _whole("same", old[i:j])
        elif tag == "replace" and j - i == n - m:
            for was, now in zip(old[i:j], new[m:n], strict=True):
                lines += _changed(was, now)
        else:
            lines += [*_whole("gone", old[i:j]), *_whole("new", new[m:n])]
    return lines


def _whole(kind: Kind, lines: Sequence[str]) -> Iterator[DiffLine]:
    return (DiffLine(kind, ((kind, line),)) for line in lines)


def _changed(was: str, now: str) -> Iterator[DiffLine]:
    old, new = re.findall(r"\s+|\w+|[^\w\s]", was), re.findall(r"\s+|\w+|[^\w\s]", now)
    if max(len(old), len(new)) > _MAX_WORDS:
        yield from (*_whole("gone", [was]), *_whole("new", [now]))
        return
    gone: list[Piece] = []
    added: list[Piece] = []
    for tag, i, j, m, n in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        same = tag == "equal"
        if i < j:
            gone.append(("same" if same else "gone", "".join(old[i:j])))
        if m < n:
            added.append(("same" if same else "new", "".join(new[m:n])))
    yield DiffLine("gone", tuple(gone))
    yield DiffLine("new", tuple(added))
