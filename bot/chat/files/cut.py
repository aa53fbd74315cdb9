"""Makes the files of a message shorter, so that they fit into a prompt. Pure.

Long ones lose their end, short ones stay whole as long as possible: a limit applies to all of them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bot.attachments.types import FileText
from bot.text import clean_piece
from models.types import StoredFile

MIN_CHARS = 100
"""No file is cut to less: the names would be all that is left."""
_CUT = "cut after "
"""The notes are for the model, in English as all of its prompt."""
_AT_LINE_END = 0.8
"""A text is cut at the end of a line if that leaves this much of what is allowed."""


def stored(file: FileText) -> StoredFile:
    """A file as it is stored, and as every later prompt has it."""
    details = [f"{file.pages:,} page{'' if file.pages == 1 else 's'}"] if file.pages else []
    if file.truncated:
        details.append(_cut_note(len(file.text)))
    return StoredFile(file.name, clean_piece(file.text), "; ".join(details))


def num_chars(files: Sequence[StoredFile]) -> int:
    """The characters of all files together."""
    return sum(len(file.content) for file in files)


def cut_files(files: Sequence[StoredFile], chars: int) -> tuple[StoredFile, ...]:
    """The files, cut to this many characters in total, but at least MIN_CHARS each."""
    limit = _limit([len(file.content) for file in files], chars)
    return tuple(_cut_file(file, limit) for file in files)


def cut_at(file: StoredFile) -> int | None:
    """After how many characters the file was cut; None if it is whole."""
    note = next((part for part in file.note.split("; ") if part.startswith(_CUT)), None)
    return None if note is None else int(note.removeprefix(_CUT).partition(" ")[0].replace(",", ""))


def _limit(lengths: Sequence[int], chars: int) -> int:
    """The length to which the longest are cut, so that all of them together have this many characters."""
    left, longest = chars, sorted(lengths)
    for index, length in enumerate(longest):
        share = left // (len(longest) - index)
        if length > share:
            return max(MIN_CHARS, share)
        left -= length
    return max(longest, default=0)


def _cut_file(file: StoredFile, limit: int) -> StoredFile:
    if len(file.content) <= limit:
        return file
    content = file.content[:limit]
    line_end = content.rfind("\n")
    if line_end >= limit * _AT_LINE_END:
        content = content[:line_end]
    notes = [part for part in file.note.split("; ") if part and not part.startswith(_CUT)]
    return replace(file, content=content, note="; ".join([*notes, _cut_note(len(content))]))


def _cut_note(chars: int) -> str:
    return f"{_CUT}{chars:,} characters"
