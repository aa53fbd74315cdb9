"""Loads the files in which a card may be, and looks into them: the first that is a card, and its picture made small."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from bot.attachments.reader import FileReader
from bot.attachments.types import FileRefused, OfferedFile
from bot.characters.files.reading import ImportedCard, read_file
from bot.errors import BotError, Hint
from bot.i18n.language import N_
from bot.i18n.language import gettext as _
from bot.i18n.translated import english

log = structlog.get_logger(__name__)

_MAX_READING = 2
"""Cards that are read at a time: a large one takes some 50 MB while it is."""
MAX_TRIED = 3
"""Files of a message that are looked into for a card."""
NO_FILE = N_("This message has no file that could be a character card. I read cards as PNG, JSON and CHARX.")
_SUFFIXES = (".png", ".apng", ".json", ".charx", ".zip")


def likely_cards(files: Sequence[OfferedFile]) -> list[OfferedFile]:
    """Those that may be cards by their names. Raises Hint if none may."""
    likely = [file for file in files if file.filename.lower().endswith(_SUFFIXES)]
    if not likely:
        raise Hint(_(NO_FILE))
    return likely[:MAX_TRIED]


class CardReader:
    """Reads cards, a few at a time."""

    def __init__(self, files: FileReader) -> None:
        self._files = files
        self._reading = asyncio.Semaphore(_MAX_READING)

    async def read(self, offers: Sequence[OfferedFile]) -> ImportedCard:
        """The first of these files that is a card. Raises what the first one was refused for."""
        first_refusal: BotError | None = None
        for offer in offers:
            try:
                async with self._reading:
                    return await asyncio.to_thread(read_file, await self._files.load(offer))
            except FileRefused as refused:
                refusal: BotError = Hint(_(refused.reason_text))
            except BotError as refused:
                refusal = refused
            first_refusal = first_refusal or refusal
        raise first_refusal or Hint(_(NO_FILE))

    async def portrait(self, imported: ImportedCard) -> bytes:
        """The card's picture as it is kept; none if it cannot be opened, which the preview then does not name."""
        if not imported.picture:
            return b""
        try:
            return await self._files.portrait(imported.picture)
        except FileRefused as refused:
            log.info("the picture of a card is not kept", reason=english(refused.reason_text))
            return b""
