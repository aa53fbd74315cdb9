"""What a member is told of the files of a message: what they add to the prompt, and why some are not read. Pure.

Plain lines with the files' names in them; how they look is up to the front end.
"""

from __future__ import annotations

from collections.abc import Sequence

from bot.attachments.types import ImageInput, RefusedFile
from bot.chat.files.cut import cut_at
from bot.i18n.language import gettext as _
from bot.i18n.language import ngettext
from models.types import StoredFile

_NAME_CHARS = 40


def files_note(texts: Sequence[StoredFile], tokens: int, images: Sequence[ImageInput], *, counted: bool) -> str:
    """One line: `2 files, 3,100 tokens`. `tokens` were counted by the server, or else estimated; "" without files."""
    parts: list[str] = []
    if texts:
        files = ngettext("{number} file", "{number} files", len(texts)).format(number=len(texts))
        if counted:
            counts = ngettext("{number:,} token", "{number:,} tokens", tokens).format(number=tokens)
        else:
            counts = ngettext("about {number:,} token", "about {number:,} tokens", tokens)
            counts = counts.format(number=_rounded(tokens))
        parts.append(f"{files}, {counts}")
        cut = _("{file} was cut after {number:,} characters")
        parts += [cut.format(file=_short(text.name), number=at) for text in texts if (at := cut_at(text)) is not None]
    if images:
        seen = ngettext(
            "{number} picture, which I see now and do not keep",
            "{number} pictures, which I see now and do not keep",
            len(images),
        )
        parts.append(seen.format(number=len(images)))
    return " · ".join(parts)


def refusals_note(refused: Sequence[RefusedFile]) -> list[str]:
    """A line for each reason, with the names of the files that it applies to."""
    by_reason: dict[str, list[str]] = {}
    for file in refused:
        by_reason.setdefault(file.reason_text, []).append(_short(file.name))
    line = _("{files}: {reason}")
    return [line.format(files=", ".join(names), reason=_(reason)) for reason, names in by_reason.items()]


def _rounded(tokens: int) -> int:
    """An estimate without digits that it does not have."""
    unit = 100 if tokens >= 1000 else 10
    return max(unit, round(tokens / unit) * unit)


def _short(name: str) -> str:
    """A name that leaves room for others: its ending is kept."""
    return name if len(name) <= _NAME_CHARS else f"{name[: _NAME_CHARS - 11]}…{name[-10:]}"
