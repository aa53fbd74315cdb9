"""Reads the files of a message: what is offered goes in, texts, pictures and refusals come out.

Nothing raises but a cancellation, and one bad file never costs the others. Bounds how many files of all messages are
loaded and opened at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from bot.attachments import reasons
from bot.attachments.download import Downloader
from bot.attachments.image import read_image
from bot.attachments.kinds import declared_charset, sniff
from bot.attachments.names import clean_name
from bot.attachments.pdf import read_pdf
from bot.attachments.policy import check_head, check_offer, size_limit
from bot.attachments.text import read_text
from bot.attachments.types import FileLimits, FileRefused, FilesRead, FileText, ImageInput, OfferedFile, RefusedFile

log = structlog.get_logger(__name__)

_FILE_SECONDS = 45.0
"""For one file, with the time that it waits for others: the member waits as well."""
_MAX_DOWNLOADS = 8
_FACE_SIDE = 512
_MAX_WORKERS = 2


class FileReader:
    """Reads files within the operator's limits. One for the whole program; close it at the end."""

    def __init__(self, limits: FileLimits, cdn_url: str | None = None, *, file_seconds: float = _FILE_SECONDS) -> None:
        self._limits = limits
        self._file_seconds = file_seconds
        self._downloader = Downloader(cdn_url)
        self._downloads = asyncio.Semaphore(_MAX_DOWNLOADS)
        self._workers = asyncio.Semaphore(_MAX_WORKERS)

    async def close(self) -> None:
        """Close every connection."""
        await self._downloader.close()

    async def read_files(self, offers: Sequence[OfferedFile], *, images_allowed: bool) -> FilesRead:
        """What can be read of these files, and why the others cannot. `images_allowed`: the model sees pictures."""
        limit = self._limits.max_files
        results = list(await asyncio.gather(*(self._result(offer, images_allowed) for offer in offers[:limit])))
        reason = reasons.too_many(limit) if limit else reasons.SWITCHED_OFF
        results += [RefusedFile(clean_name(offer.filename), reason) for offer in offers[limit:]]
        return FilesRead(
            texts=tuple(result for result in results if isinstance(result, FileText)),
            images=tuple(result for result in results if isinstance(result, ImageInput)),
            refused=tuple(result for result in results if isinstance(result, RefusedFile)),
        )

    async def load(self, offer: OfferedFile) -> bytes:
        """All bytes of a file of any kind, for one who knows what it is. Raises FileRefused.

        What Discord says of its size is checked before a byte is loaded, and the bytes are counted all the same.
        """
        limit = self._limits.max_raw_bytes
        if offer.size == 0:
            raise FileRefused(reasons.EMPTY)
        if offer.size > limit:
            raise FileRefused(reasons.too_large(offer.size, limit))
        try:
            async with asyncio.timeout(self._file_seconds), self._downloads:
                data = await self._downloader.load(offer.url, limit, lambda head: limit)
        except TimeoutError:
            raise FileRefused(reasons.TOO_SLOW) from None
        if len(data) < offer.size:
            raise FileRefused(reasons.INCOMPLETE)
        return data

    async def portrait(self, data: bytes) -> bytes:
        """A picture as a PNG, at most 1024 pixels a side and 1 MiB. Raises FileRefused."""
        async with self._workers:
            return (await read_image("portrait", data, png_only=True)).data

    async def face(self, offer: OfferedFile) -> bytes:
        """A picture that stands for somebody: a PNG that does not move, at most 512 pixels a side and 1 MiB.

        Raises FileRefused.
        """
        data = await self.load(offer)
        if sniff(data) != "image":
            raise FileRefused(reasons.NO_PICTURE)
        async with self._workers:
            return (await read_image("face", data, png_only=True, still=True, max_side=_FACE_SIDE)).data

    async def _result(self, offer: OfferedFile, images_allowed: bool) -> FileText | ImageInput | RefusedFile:
        name = clean_name(offer.filename)
        try:
            async with asyncio.timeout(self._file_seconds):
                return await self._read(name, offer, images_allowed)
        except FileRefused as refused:
            return RefusedFile(name, refused.reason_text)
        except TimeoutError:
            log.warning("a file took too long to read")
            return RefusedFile(name, reasons.TOO_SLOW)
        except Exception as error:
            log.error("a file could not be read", error=type(error).__name__, exc_info=_without_words(error))
            return RefusedFile(name, reasons.READER_FAILED)

    async def _read(self, name: str, offer: OfferedFile, images_allowed: bool) -> FileText | ImageInput:
        limits = self._limits
        check_offer(offer, limits, images_allowed=images_allowed)
        async with self._downloads:
            data = await self._downloader.load(
                offer.url,
                limits.max_raw_bytes,
                lambda head: size_limit(check_head(head, images_allowed=images_allowed), limits),
            )
        kind = sniff(data)
        if kind == "image":
            async with self._workers:
                return await read_image(name, data)
        if not data:
            raise FileRefused(reasons.EMPTY)
        if len(data) < offer.size:  # a part of a text looks like the whole
            raise FileRefused(reasons.INCOMPLETE)
        if kind == "pdf":
            async with self._workers:
                return await read_pdf(name, data, limits.max_text_bytes)
        # The detector may take a part of a second, and the gateway's heartbeat must not wait for it.
        read = await asyncio.to_thread(read_text, data, declared_charset(offer.content_type))
        if read is None:
            raise FileRefused(reasons.not_text(images_allowed=images_allowed))
        text, truncated = read
        if not text.strip():
            raise FileRefused(reasons.EMPTY)
        return FileText(name, text, truncated)


def _without_words(error: BaseException) -> tuple[type[BaseException], BaseException, object]:
    """The traceback of an error without its text, which may repeat a member's words."""
    return type(error), RuntimeError("left out"), error.__traceback__
