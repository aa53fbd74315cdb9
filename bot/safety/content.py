"""What a guild keeps out of its conversations, applied to one message and its reply: words first, then the endpoint.

Off unless the guild chose it. Neither what was found nor the text is ever logged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import structlog

from bot.errors import MessageFiltered, MessageUnchecked
from bot.i18n.language import gettext as _
from bot.safety.moderation import Moderation, ModerationDown
from bot.safety.stream import StreamFilter
from bot.safety.words import WordFilter
from bot.settings import Settings
from models.types import GuildSettings

log = structlog.get_logger(__name__)


@lru_cache(maxsize=1000)
def _compiled(words: tuple[str, ...]) -> WordFilter:
    return WordFilter.of(words)


@dataclass(frozen=True, slots=True)
class ContentFilter:
    """What applies in one guild."""

    words: WordFilter | None
    moderation: Moderation | None
    thresholds: tuple[tuple[str, float], ...] = ()
    fails_open: bool = False

    @property
    def shows_live(self) -> bool:
        """Whether a reply may be shown while it is written: the endpoint judges whole texts only."""
        return self.moderation is None

    def stream(self, before: str = "") -> StreamFilter | None:
        """What a reply goes through while it is shown; `before` is shown already."""
        return None if self.words is None else StreamFilter(self.words, before)

    async def check_message(self, texts: Sequence[str]) -> None:
        """Raise MessageFiltered for a message that is kept out, or MessageUnchecked if nobody can tell."""
        text = "\n\n".join(filter(None, texts))
        if self.has_word(text):
            raise MessageFiltered()
        if self.moderation is None:
            return
        try:
            kept_out = await self.moderation.keeps_out(text, dict(self.thresholds))
        except ModerationDown as down:
            log.warning("a message could not be checked", reason=down.reason, fails_open=self.fails_open)
            if self.fails_open:
                return
            raise MessageUnchecked() from None
        if kept_out:
            raise MessageFiltered()

    async def keeps_out_reply(self, text: str) -> bool:
        """Whether a reply is kept out; so it is if nobody can tell, unless the operator chose otherwise."""
        if self.has_word(text):
            return True
        if self.moderation is None or not text.strip():
            return False
        try:
            return await self.moderation.keeps_out(text, dict(self.thresholds))
        except ModerationDown as down:
            log.warning("a reply could not be checked", reason=down.reason, fails_open=self.fails_open)
            return not self.fails_open

    def has_word(self, text: str) -> bool:
        """Whether a text has a filtered word."""
        return self.words is not None and self.words.matches(text)


class ContentFilters:
    """The filters of all guilds, and the operator's endpoint."""

    def __init__(self, settings: Settings) -> None:
        url = settings.moderation_url
        self._moderation = None if url is None else Moderation(settings, url)
        self._fails_open = settings.moderation_fail == "open"

    def of(self, guild: GuildSettings) -> ContentFilter | None:
        """What a guild has chosen; None if it keeps nothing out."""
        words = _compiled(guild.filter_words) if guild.filter_words else None
        moderation = self._moderation if guild.moderation else None
        if words is None and moderation is None:
            return None
        return ContentFilter(words, moderation, guild.moderation_thresholds, self._fails_open)

    async def close(self) -> None:
        """Close the connections to the endpoint."""
        if self._moderation is not None:
            await self._moderation.close()


def replacement() -> str:
    """What stands in place of a reply that is kept out."""
    return _(
        "My answer held something that this guild keeps out of our conversations, so I do not show it and will not "
        "come back to it. Please ask me in another way."
    )
