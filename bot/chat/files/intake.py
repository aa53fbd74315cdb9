"""Reads the files of a message and fits their texts into the model's context, before the turn is stored.

Of texts about half of the context is used, and the rest of a longer one is cut off. Pictures are read only if the
model sees them. Asks the engine's client to count; knows neither the database nor how anything is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bot.attachments import reasons
from bot.attachments.frame import message_with_files
from bot.attachments.kinds import declared_kind
from bot.attachments.names import clean_name
from bot.attachments.reader import FileReader
from bot.attachments.types import FilesRead, OfferedFile, RefusedFile
from bot.chat.files.cut import cut_files, num_chars, stored
from bot.chat.files.note import files_note, refusals_note
from bot.chat.requests import ChatRequest
from bot.engine_client.engine import Engine
from bot.engine_client.messages import Message
from bot.errors import FilesRefused
from bot.settings import Settings
from bot.text import BYTES_PER_TOKEN
from models.types import StoredFile

_COUNTS = 4
"""How often the server counts while files are being cut."""
_MARGIN = 0.95
_MAX_CHARS_PER_TOKEN = 8
"""More than a text in words has: what is beyond is cut without asking the server to count it."""
_SHORT_QUOTE = 4000  # characters: as long as a message can be
_PICTURE = "a picture, seen only when it was sent"
_NOT_READ = "could not be read"


class FileIntake:
    """Reads the files of messages. One for the whole program."""

    def __init__(self, reader: FileReader, engine: Engine, settings: Settings) -> None:
        self._reader = reader
        self._engine = engine
        self._settings = settings

    async def take(self, request: ChatRequest) -> ChatRequest:
        """The request with its files read.

        Raises FilesRefused if there is nothing to answer: no words, and no file that can be used. Raises Busy or
        EngineUnavailable if the server cannot say what it takes.
        """
        if not request.offers:
            return await self._with_fitting_quotes(request)
        read = await self._read(request.offers) if request.reads_files else _all_refused(request.offers)
        refusals = refusals_note(read.refused)
        is_quote = request.offers_kind != "file"  # then there is a question, but perhaps nothing that it is about
        if not (read.texts or read.images or request.files or (request.text and not is_quote)):
            raise FilesRefused(refusals)

        def of_offer(file: StoredFile) -> StoredFile:
            return replace(file, kind=request.offers_kind, author_id=request.offers_author_id)

        offered = [of_offer(stored(text)) for text in read.texts]
        texts, tokens, counted = await self._fit([*request.files, *offered], request.text)
        note = files_note([file for file in texts if file.kind != "quote"], tokens, read.images, counted=counted)
        return replace(
            request,
            files=(
                *texts,
                *(of_offer(StoredFile(image.name, "", _PICTURE)) for image in read.images),
                *(of_offer(StoredFile(file.name, "", _NOT_READ)) for file in read.refused),
            ),
            images=read.images,
            files_note="\n".join(filter(None, (note, *refusals))),
        )

    async def _with_fitting_quotes(self, request: ChatRequest) -> ChatRequest:
        """The request with what it quotes cut to what fits. A short quote is not counted: it fits, or nothing does."""
        if num_chars(request.files) <= _SHORT_QUOTE:
            return request
        fitted, _, _ = await self._fit(request.files, request.text)
        return replace(request, files=fitted)

    async def _read(self, offers: Sequence[OfferedFile]) -> FilesRead:
        """Read the files. Whether the model sees pictures is found out only if there is one."""
        has_picture = any(declared_kind(offer.content_type) == "image" for offer in offers)
        images_allowed = has_picture and await self._engine.accepts_images()
        read = await self._reader.read_files(offers, images_allowed=images_allowed)
        undeclared = not has_picture and any(file.reason_text == reasons.NO_IMAGES for file in read.refused)
        if undeclared and await self._engine.accepts_images():
            read = await self._reader.read_files(offers, images_allowed=True)
        return read

    async def _fit(self, files: Sequence[StoredFile], text: str) -> tuple[tuple[StoredFile, ...], int, bool]:
        """The files, cut if need be; the tokens that they add to the prompt; whether the server counted them."""
        if not files:
            return (), 0, True
        fitted = tuple(files)
        budget = await self._budget()
        if budget is not None and num_chars(fitted) > budget * _MAX_CHARS_PER_TOKEN:
            fitted = cut_files(fitted, budget * _MAX_CHARS_PER_TOKEN)
        alone = await self._count(text or "-")
        for attempt in range(_COUNTS):
            message = message_with_files(text, fitted)
            whole = None if alone is None else await self._count(message)
            counted = whole is not None and alone is not None
            tokens = whole - alone if whole is not None and alone is not None else _estimate(message)
            shorter = fitted
            if budget is not None and tokens > budget:
                shorter = cut_files(fitted, int(num_chars(fitted) * _MARGIN * budget / tokens))
            if shorter == fitted or attempt == _COUNTS - 1:
                break
            fitted = shorter
        return fitted, max(1, tokens), counted

    async def _budget(self) -> int | None:
        """Tokens that files may take: about half of the context, and less if the reply takes much. None: not known."""
        if self._engine.context_length is None:
            await self._engine.model()  # the list of models may state the context length
        known = self._engine.context_length
        limit = min(filter(None, (known, self._settings.max_seq_len)), default=None)
        if limit is None:
            return None
        reply = min(self._settings.max_reply_tokens, limit // 2)
        return min(limit // 2, (limit - reply) * 3 // 4)

    async def _count(self, text: str) -> int | None:
        counted = await self._engine.count([Message(role="user", content=text)])
        return None if counted is None else counted.count


def _all_refused(offers: Sequence[OfferedFile]) -> FilesRead:
    """What comes of files where none are read."""
    return FilesRead(refused=tuple(RefusedFile(clean_name(each.filename), reasons.SWITCHED_OFF) for each in offers))


def _estimate(text: str) -> int:
    return len(text.encode()) // BYTES_PER_TOKEN
