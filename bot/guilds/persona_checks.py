"""What the name, the tags and the text of a persona may be. Knows the models, which count tokens, and no database."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bot.engine_client.messages import Message
from bot.engine_client.model_list import ModelList
from bot.errors import BotError, EmptyText, EngineUnavailable, NulCharacters, PersonaTooLong, TooLong
from bot.i18n.language import gettext as _
from bot.settings import Settings
from bot.text import clean_text, has_nul
from models.queries.tenants.personas import name_key
from models.types import DialogKey

MAX_NAME_CHARS = 80
MAX_TAGS = 10
MAX_TAG_CHARS = 30
_TURNS_TEXT = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Characters that reverse the direction of what stands around a name."""
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0\U000e0100-\U000e01ef]")
"""Letters, marks and symbols that show nothing, although Unicode does not say so by their category."""


@dataclass(frozen=True, slots=True)
class PersonaSize:
    """How much of the model's context a persona takes in every prompt."""

    tokens: int
    context: int

    @property
    def percent(self) -> int:
        """Its share of the context, at least 1."""
        return max(1, round(100 * self.tokens / self.context))


def clean_name(name: str) -> str:
    """The name on one line, without characters that control anything. Raises NulCharacters or TooLong."""
    if has_nul(name):
        raise NulCharacters("name")
    visible = _BLANK.sub("", _TURNS_TEXT.sub("", clean_text(name)))
    line = " ".join("".join(" " if unicodedata.category(each) == "Cc" else each for each in visible).split())
    if len(line) > MAX_NAME_CHARS:
        raise TooLong("name", MAX_NAME_CHARS, len(line))
    return line


def required_name(name: str) -> str:
    """The same for a name that must be one. Raises EmptyText too, also for one of which nothing can be seen."""
    line = clean_name(name)
    if not any(unicodedata.category(each)[0] in "LNPS" for each in name_key(line)):
        raise EmptyText("name")
    return line


def tags_of(text: str) -> tuple[str, ...]:
    """The words of a list with commas, each once. Raises NulCharacters, TooLong or BotError."""
    tags: dict[str, str] = {}
    for part in re.split("[,;\n]", text):
        tag = clean_name(part.strip().removeprefix("#"))
        if len(tag) > MAX_TAG_CHARS:
            raise TooLong("tag", MAX_TAG_CHARS, len(tag))
        if name_key(tag):
            tags.setdefault(name_key(tag), tag)
    if len(tags) > MAX_TAGS:
        raise BotError(_("A persona can have {number} tags.").format(number=MAX_TAGS))
    return tuple(tags.values())


class PersonaLimits:
    """Checks texts against the operator's limit and the context of the model that the guild has chosen."""

    def __init__(
        self, models: ModelList, settings: Settings, chosen: Callable[[DialogKey], Awaitable[str | None]]
    ) -> None:
        """`chosen`: the name of the model that the key's guild has chosen."""
        self._models = models
        self._settings = settings
        self._chosen = chosen

    async def check(self, key: DialogKey, prompt: str) -> tuple[str, PersonaSize | None]:
        """The text as it is stored, and its size; None if the engine cannot count now.

        Raises EmptyText, NulCharacters or PersonaTooLong.
        """
        if has_nul(prompt):
            raise NulCharacters("persona")
        prompt = clean_text(prompt)
        if not prompt:
            raise EmptyText("persona")
        return prompt, await self._within(key, prompt, self._settings.max_persona_chars)

    async def check_character(self, key: DialogKey, text: str) -> PersonaSize | None:
        """The size of what a character puts into every prompt. Raises PersonaTooLong."""
        return await self._within(key, text, self._settings.max_character_chars)

    async def _within(self, key: DialogKey, text: str, limit: int) -> PersonaSize | None:
        if len(text) > limit:
            raise PersonaTooLong(limit, len(text))
        size = await self.size(key, text)
        if size is not None and size.tokens > size.context // 2:
            raise PersonaTooLong(size.context // 2, size.tokens, "tokens")
        return size

    async def size(self, key: DialogKey, prompt: str) -> PersonaSize | None:
        """What a prompt with nothing else in it takes; None if the engine cannot count now."""
        try:
            # Many chat formats cannot encode a prompt without a user message.
            dialog = [Message(role="system", content=prompt), Message(role="user", content="Hi")]
            counted = await self._models.engine(await self._chosen(key)).count(dialog)
        except EngineUnavailable:
            return None  # the limit in characters was checked, and the first message will check that it fits
        if counted is None:
            return None
        context = min(counted.context_length, self._settings.max_seq_len or counted.context_length)
        return PersonaSize(counted.count, max(1, context))
