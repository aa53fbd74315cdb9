"""What is offered, what was read of it, and the limits, as plain values.

Names and contents are a member's words: no `repr` shows them, so that none reaches a log.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bot.settings import Settings


@dataclass(frozen=True, slots=True)
class OfferedFile:
    """A file as its message announces it. Nothing of this is certain but the URL's host, which the download checks."""

    filename: str = field(repr=False)
    content_type: str | None
    size: int
    url: str = field(repr=False)
    is_voice: bool = False


@dataclass(frozen=True, slots=True)
class FileText:
    """The text of a file, with a cleaned name. `pages` is 0 for what has none."""

    name: str = field(repr=False)
    text: str = field(repr=False)
    truncated: bool = False
    pages: int = 0


@dataclass(frozen=True, slots=True)
class ImageInput:
    """A picture as a model may have it: small, upright, without metadata."""

    name: str = field(repr=False)
    media_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RefusedFile:
    """A file that is not read, and the reason in one sentence for the member."""

    name: str = field(repr=False)
    reason_text: str


@dataclass(frozen=True, slots=True)
class FilesRead:
    """What came of the files of one message, each group in the order in which they were sent."""

    texts: tuple[FileText, ...] = ()
    images: tuple[ImageInput, ...] = ()
    refused: tuple[RefusedFile, ...] = ()


@dataclass(frozen=True, slots=True)
class FileLimits:
    """The operator's limits. `max_text_bytes` is for a file of text, `max_raw_bytes` for a PDF or a picture."""

    max_files: int = 4
    max_text_bytes: int = 256 << 10
    max_raw_bytes: int = 8 << 20

    @classmethod
    def of(cls, settings: Settings) -> FileLimits:
        """The limits that these settings name."""
        return cls(settings.max_files, settings.max_file_size, max(settings.max_raw_file_size, settings.max_file_size))


class FileRefused(Exception):
    """This file cannot be read, for a reason that its sender may be told."""

    def __init__(self, reason_text: str) -> None:
        super().__init__(reason_text)
        self.reason_text = reason_text
