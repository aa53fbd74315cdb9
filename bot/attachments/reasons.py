"""Why a file is not read, each in one sentence for the member. Pure.

Constants are in English, so that they can be compared and logged; `gettext` tells each in the member's language.
"""

from __future__ import annotations

from bot.attachments.kinds import Kind
from bot.i18n.language import N_, ngettext
from bot.i18n.language import gettext as _

VOICE = N_("I cannot listen to voice messages; please write what you want to say.")
EMPTY = N_("This file is empty.")
SWITCHED_OFF = N_("I do not read files here.")
FOREIGN_HOST = N_("I read only files that were sent on Discord itself.")
GONE = N_("This file is no longer there; please send it again.")
NOT_LOADED = N_("I could not load this file from Discord; please send it again in a moment.")
INCOMPLETE = N_("Only a part of this file arrived; please send it again.")
TOO_SLOW = N_("This file took too long to load; please send it again in a moment.")
NOT_TEXT = N_("I cannot find any text in this file; I read text, code and PDFs.")
NOT_TEXT_OR_IMAGE = N_("I cannot find any text in this file; I read text, code, PDFs and pictures.")
NO_IMAGES = N_("The model that I use here sees no pictures; please describe it in words.")
READER_FAILED = N_("I could not read this file just now; please try again in a moment.")

_OF_KIND: dict[Kind, str] = {
    "other image": N_("I cannot see this kind of picture; please send it as PNG, JPEG, WebP or GIF."),
    "audio": N_("I cannot listen to sound; please write what it says."),
    "video": N_("I cannot watch videos; please describe it in words."),
    "archive": N_("This is an archive, and I do not unpack archives; please send the files in it."),
    "office": N_("This is an office document; please send it as a PDF or as text."),
    "program": N_("This is a program, and I read only text; please send its source code."),
    "data": N_("This is a binary file, and I read only text."),
}

PDF_LOCKED = N_("This PDF is locked with a password; please send it without one.")
PDF_BROKEN = N_("This PDF is damaged, and I cannot read it; please save it anew and send it again.")
PDF_NO_TEXT = N_("This PDF has no text in it, only pictures of pages; please send the text itself.")
PDF_TOO_BIG = N_("This PDF becomes too large when it is unpacked; please send a smaller part of it.")
PDF_TOO_SLOW = N_("This PDF takes too long to read; please send a smaller part of it.")

IMAGE_BROKEN = N_("This picture is damaged, and I cannot open it; please save it anew and send it again.")
NO_PICTURE = N_("This is no picture that I can use; please send a PNG, JPEG or WebP.")
IMAGE_MOVES = N_("This picture moves; please send one that does not.")
IMAGE_TOO_BIG = N_("This picture has too many pixels; please send a smaller one.")


def of_kind(kind: Kind, *, images_allowed: bool) -> str | None:
    """Why a file of this kind is never read, or None if it is."""
    if kind == "other image" and not images_allowed:
        return NO_IMAGES
    if kind == "image":
        return None if images_allowed else NO_IMAGES
    return _OF_KIND.get(kind)


def not_text(*, images_allowed: bool) -> str:
    """The bytes are neither text nor of any kind that is known."""
    return NOT_TEXT_OR_IMAGE if images_allowed else NOT_TEXT


def too_large(size: int | None, limit: int) -> str:
    """The file has more bytes than it may have; `size` is None where it was given up on the way."""
    if size is None:
        text = _("This file is too large, and I read at most {limit} of its kind; please send a smaller part of it.")
        return text.format(limit=amount(limit))
    text = _("This file has {size}, and I read at most {limit} of its kind; please send a smaller part of it.")
    return text.format(size=amount(size), limit=amount(limit))


def too_many(limit: int) -> str:
    """The message has more files than it may have."""
    text = ngettext("I read only one file of a message.", "I read only the first {number} files of a message.", limit)
    return text.format(number=limit)


def amount(size: int) -> str:
    """A number of bytes for people: `256 KiB`, `1.5 MiB`."""
    if size < 1024:
        return ngettext("{number} byte", "{number} bytes", size).format(number=size)
    unit, value = ("KiB", size / 1024) if size < 1 << 20 else ("MiB", size / (1 << 20))
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"
