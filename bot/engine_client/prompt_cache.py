"""Has the engine drop what it still keeps of prompts, when the texts in them are deleted.

The engine's unit is what its prompts were salted with: a guild, or one person's direct messages. So the others of a
guild find nothing cached either, and their next replies begin a moment later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from bot.engine_client.client import EngineClient
from bot.engine_client.pseudonyms import Pseudonyms
from models.types import DialogKey

log = structlog.get_logger(__name__)

_SECONDS = 5.0
"""How long a deletion waits for the engine."""


class PromptCache:
    """Best effort: a deletion does not fail because the engine could not be reached, since its cache is only memory."""

    def __init__(self, engine: EngineClient, pseudonyms: Pseudonyms) -> None:
        self._engine = engine
        self._pseudonyms = pseudonyms

    async def erase(self, keys: Iterable[DialogKey]) -> None:
        """Erase the prompts of everyone who shares a cache with one of these keys."""
        salts = sorted({self._pseudonyms.cache_salt(key) for key in keys})
        try:
            async with asyncio.timeout(_SECONDS):
                await asyncio.gather(*(self._engine.erase_cache(salt) for salt in salts))
        except TimeoutError:
            log.warning("the engine's cache could not be erased", reason="no answer in time")
