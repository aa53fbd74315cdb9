"""Has the engine drop what it still keeps of prompts, when the texts in them are deleted.

The engine's unit is what its prompts were salted with: a guild, or one person's direct messages. So the others of a
guild find nothing cached either, and their next replies begin a moment later. The salt is the same for each model: a
guild may have chosen another one before, so all of them are told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from bot.engine_client.engine import Engine
from bot.engine_client.model_list import ModelList
from bot.engine_client.pseudonyms import Pseudonyms
from models.types import DialogKey

log = structlog.get_logger(__name__)

_SECONDS = 5.0
"""How long a deletion waits for the engine."""
_RETRY_SECONDS = 2.0


class PromptCache:
    """A deletion does not fail because the engine could not be reached.

    If its cache is only memory, it is gone with the engine. If it also keeps files, it is asked again until it answers.
    """

    def __init__(self, engine: Engine | ModelList, pseudonyms: Pseudonyms, *, keeps_files: bool = False) -> None:
        """`keeps_files`: whether the default model's engine does."""
        self._models = ModelList.of(engine)
        self._pseudonyms = pseudonyms
        self._keeps_files = keeps_files
        self._missed: set[str] = set()
        self._retrying: asyncio.Task[None] | None = None

    async def erase(self, keys: Iterable[DialogKey]) -> None:
        """Erase the prompts of everyone who shares a cache with one of these keys."""
        salts = sorted({self._pseudonyms.cache_salt(key) for key in keys})
        erased: list[bool] = []
        try:
            async with asyncio.timeout(_SECONDS):
                erased = await asyncio.gather(*(self._erase(salt) for salt in salts))
        except TimeoutError:
            log.warning("the engine's cache could not be erased", reason="no answer in time")
        if self._keeps_files:
            self._missed |= set(salts) - {salt for salt, done in zip(salts, erased, strict=False) if done}
            if self._missed and (self._retrying is None or self._retrying.done()):
                self._retrying = asyncio.create_task(self._retry(), name="erase the engine's files")

    async def _erase(self, salt: str) -> bool:
        """Have all models' engines drop it; whether the default one's has."""
        default, *_others = await asyncio.gather(
            *(engine.erase_cache(salt) for engine in self._models.engines.values())
        )
        return default

    async def _retry(self) -> None:
        while self._missed:
            await asyncio.sleep(_RETRY_SECONDS)
            for salt in sorted(self._missed):
                if await self._models.default.erase_cache(salt):
                    self._missed.discard(salt)
