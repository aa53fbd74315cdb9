"""What is remembered as text in Discord's Markdown: pages of notes, and what an answer was made of. Pure functions.

Notes are written by a model or a member, so their Markdown and mentions are shown as they are typed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from discord.utils import escape_markdown, escape_mentions

from bot.discord_app.splitting.code_fences import utf16_length
from bot.i18n.dates import day
from bot.i18n.language import N_, ngettext
from bot.i18n.language import gettext as _
from models.queries.memory.facts import MAX_FACTS
from models.types import DIRECT_MESSAGES, MemoryFact, PromptUsed, Summary

PAGE_CHARS = 1_700
"""UTF-16 units of notes on a page; the rest of Discord's 2,000 is for what stands around them."""
_MAX_SHOWN = 40
"""Characters of a note where one is chosen or named."""
SWITCHED_ON = N_(
    "I remember you here from now on: short notes of what you tell me about yourself, and a summary of what our "
    "conversation was about once it is long. Notes stay in {place}; they may be wrong. `/memory show` lists them, "
    "`/memory edit` and `/memory forget` change them, `/memory off` stops it.\n"
    "-# What you told me in our conversations of the last day counts as well."
)
SWITCHED_OFF = N_("I take no more notes about you here, and I do not use those that I have.")
NOT_WHERE_SHARED = N_("-# Not for the conversation that everyone here shares: with `everywhere` I use it there, too.")
NO_SUCH_NOTE = N_("I have no such note about you here. Please choose one of those that are suggested while you type.")
NOTHING = N_("I have no notes about you here.")


def place_name(guild_id: int) -> str:
    """What the notes of a guild are kept in."""
    return _("our direct messages") if guild_id == DIRECT_MESSAGES else _("this guild")


def switched_off(count: int) -> str:
    """The answer to /memory off."""
    if not count:
        return _(SWITCHED_OFF)
    left = ngettext(
        "One note is still there: `/memory show` shows what I have, `/memory forget everything:True` deletes it.",
        "{number} notes are still there: `/memory show` shows what I have, `/memory forget everything:True` deletes "
        "it.",
        count,
    )
    return f"{_(SWITCHED_OFF)} {left.format(number=count)}"


def pages(
    facts: Sequence[MemoryFact], summary: Summary | None, links: Mapping[int, str], *, shared: bool = False
) -> list[list[str]]:
    """The notes in blocks, in pages: the summary first, then the facts, the newest first.

    `links`: to the replies of the turns that told them, by turn id.
    """
    blocks = [] if summary is None else _summary_blocks(summary, shared)
    blocks += [_fact_block(number, fact, links) for number, fact in enumerate(facts, 1)]
    found: list[list[str]] = []
    for block in blocks:
        if not found or utf16_length("\n".join([*found[-1], block])) > PAGE_CHARS:
            found.append([])
        found[-1].append(block)
    return found


def heading(count: int, guild_id: int) -> str:
    """The line above the notes."""
    how_many = _("no notes yet")
    if count:
        how_many = ngettext("one note of at most {limit}", "{number} notes of at most {limit}", count)
        how_many = how_many.format(number=count, limit=MAX_FACTS)
    text = _("**What I remember about you in {place}** · {how_many}")
    return text.format(place=place_name(guild_id), how_many=how_many)


def why_text(used: PromptUsed) -> str:
    """What an answer was made of."""
    record = used.record
    title = _("**What I had before me when I wrote this answer**")
    lines = [title, f"- {_persona(used)}", f"- {_pairs(used)}"]
    if record.num_examples:
        lines.append(_("- Examples of how I speak: {number}").format(number=record.num_examples))
    if record.lore:
        lines.append(_("- Entries of my lorebook: {number}").format(number=len(record.lore)))
    if used.summary is not None:
        lines += [_("- A summary of what came before:"), *_quoted(used.summary.text)]
    elif record.summary_id is not None:
        lines.append(_("- A summary of what came before, which is gone since"))
    gone = len(record.fact_ids) - len(used.facts)
    if record.fact_ids:
        lines += [_("- Notes about you:"), *(f"> {shown(fact.text)}" for fact in used.facts)]
    if gone:
        text = ngettext("> *one that you have forgotten since*", "> *{number} that you have forgotten since*", gone)
        lines.append(text.format(number=gone))
    if not record.fact_ids and record.summary_id is None:
        lines.append(_("- No notes about you, and no summary"))
    return "\n".join(lines)


def shown(text: str) -> str:
    """A note as it is typed, without pinging anyone."""
    return escape_mentions(escape_markdown(text))


def short(text: str) -> str:
    """The beginning of a note, for a list to choose from."""
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1].rstrip()}…"


def _persona(used: PromptUsed) -> str:
    record = used.record
    if record.persona_id is None:
        return _("Who I am: the default persona of this bot")
    if used.persona_name is None:
        text = _("Who I am: a persona that was deleted since, version {version}")
        return text.format(version=record.persona_version)
    text = _("Who I am: **{name}**, version {version}")
    return text.format(name=shown(used.persona_name), version=record.persona_version)


def _pairs(used: PromptUsed) -> str:
    known, before = used.record.num_pairs, used.num_before
    if not before:
        return _("Our conversation: your message alone, nothing came before it")
    cut = max(0, before - known)
    text = ngettext(
        "Our conversation: your message, and the one exchange before it",
        "Our conversation: your message, and the {number} exchanges before it",
        known,
    ).format(number=known)
    if not known:
        text = _("Our conversation: your message, and nothing of what before it")
    if not cut:
        return text
    rest = ngettext("{before}; an older one was left out", "{before}; {number} older ones were left out", cut)
    return rest.format(before=text, number=cut)


def _summary_blocks(summary: Summary, shared: bool) -> list[str]:
    """One for each line: with what is escaped, a summary may be longer than a page."""
    title = _("**The earlier part of our conversation here**")
    if shared:
        title = _("**The earlier part of what everyone here shares with me**")
    first, *more = [*_quoted(summary.text), ""]
    return [f"{title}\n{first}", *more]


def _fact_block(number: int, fact: MemoryFact, links: Mapping[int, str]) -> str:
    source = [day(fact.source_at)]
    if fact.source_turn_id is None:
        source.append(_("written by you"))
    else:
        link = links.get(fact.source_turn_id)
        source.append(_("from [what you said]({link})").format(link=link) if link else _("from what you said"))
        source += [_("changed by you")] if fact.edited else []
    if fact.private:
        source.append(_("in private"))
    return f"{number}\\. {shown(fact.text)}\n-# {', '.join(source)}"


def _quoted(text: str) -> list[str]:
    return [f"> {shown(line)}" for line in text.split("\n")]
