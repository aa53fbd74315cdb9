"""A guild's filters as text in Discord's Markdown. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from bot.i18n.language import gettext as _
from bot.i18n.language import ngettext
from bot.safety.moderation import NEVER
from bot.safety.words import MAX_WORD_CHARS
from bot.settings import Settings
from models.types import GuildSettings


def words_text(words: Sequence[str]) -> str:
    """The filtered words, hidden until they are clicked on."""
    if not words:
        return _("No words are filtered here.")
    head = ngettext("{number} word is filtered here:", "{number} words are filtered here:", len(words)).format(
        number=len(words)
    )
    # Words hold letters, digits, spaces and * only, so nothing in them can end the spoiler but their *.
    shown = " ".join("||{word}||".format(word=word.replace("*", "\\*")) for word in words)
    return f"{head}\n{shown}"


def changed_text(before: int, after: int, skipped: Sequence[str], *, removing: bool) -> str:
    """What an addition or removal came to."""
    difference = abs(after - before)
    if removing:
        line = ngettext("{number} word was removed.", "{number} words were removed.", difference)
    else:
        line = ngettext("{number} word was added.", "{number} words were added.", difference)
    parts = [line.format(number=difference)]
    if skipped:
        parts.append(
            ngettext(
                "{number} was left out: a word needs a letter or a digit, and has room for {limit} characters.",
                "{number} were left out: a word needs a letter or a digit, and has room for {limit} characters.",
                len(skipped),
            ).format(number=len(skipped), limit=MAX_WORD_CHARS)
        )
    total = ngettext("{number} word is filtered now.", "{number} words are filtered now.", after)
    return " ".join((*parts, total.format(number=after)))


def moderation_text(guild: GuildSettings, settings: Settings) -> str:
    """Whether the endpoint checks texts here, and from which scores."""
    if settings.moderation_url is None:
        return _("**off**: the owner of this bot offers no moderation")
    if not guild.moderation:
        return _("**off**: no moderation checks messages and answers")
    if not guild.moderation_thresholds:
        return _("**on**: messages and answers are checked; its own judgement counts")
    return _("**on**: messages and answers are checked: {scores}; for all else its own judgement counts").format(
        scores=", ".join(threshold_texts(guild))
    )


def threshold_texts(guild: GuildSettings) -> list[str]:
    """Each category with the score from which a text is kept out."""
    return [
        _("{category} never").format(category=f"`{category}`")
        if score >= NEVER
        else _("{category} from {score}").format(category=f"`{category}`", score=f"{score:g}")
        for category, score in guild.moderation_thresholds
    ]


def filter_lines(guild: GuildSettings, settings: Settings) -> list[str]:
    """The filters for `/config show`: the number of words, never the words."""
    lines = []
    if guild.filter_words:
        count = len(guild.filter_words)
        number = ngettext("**{number} word**", "**{number} words**", count).format(number=count)
        lines.append(f"`filter words` {number}")
    if guild.moderation:
        lines.append(f"`filter moderation` {moderation_text(guild, settings)}")
    return lines
