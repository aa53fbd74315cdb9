"""What is remembered as text in Discord's Markdown: pages of notes, and what an answer was made of. Pure functions.

Notes are written by a model or a member, so their Markdown and mentions are shown as they are typed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from discord.utils import escape_markdown, escape_mentions

from bot.discord_app.code_fences import utf16_length
from models.queries.memory.facts import MAX_FACTS
from models.types import DIRECT_MESSAGES, MemoryFact, PromptUsed, Summary

PAGE_CHARS = 1_700
"""UTF-16 units of notes on a page; the rest of Discord's 2,000 is for what stands around them."""
_MAX_SHOWN = 40
"""Characters of a note where one is chosen or named."""
SWITCHED_ON = (
    "I remember you here from now on: short notes of what you tell me about yourself, and a summary of what our "
    "conversation was about once it is long. Notes stay in {place}; they may be wrong. `/memory show` lists them, "
    "`/memory edit` and `/memory forget` change them, `/memory off` stops it.\n"
    "-# What you told me in our conversations of the last day counts as well."
)
SWITCHED_OFF = "I take no more notes about you here, and I do not use those that I have."
_STILL_THERE = " {} there: `/memory show` shows what I have, `/memory forget everything:True` deletes it."
NOT_WHERE_SHARED = "-# Not for the conversation that everyone here shares: with `everywhere` I use it there, too."
NO_SUCH_NOTE = "I have no such note about you here. Please choose one of those that are suggested while you type."
NOTHING = "I have no notes about you here."


def place_name(guild_id: int) -> str:
    """What the notes of a guild are kept in."""
    return "our direct messages" if guild_id == DIRECT_MESSAGES else "this guild"


def switched_off(count: int) -> str:
    """The answer to /memory off."""
    left = "One note is still" if count == 1 else f"{count} notes are still"
    return SWITCHED_OFF + (_STILL_THERE.format(left) if count else "")


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
    what = "one note" if count == 1 else f"{count} notes"
    how_many = f"{what} of at most {MAX_FACTS}" if count else "no notes yet"
    return f"**What I remember about you in {place_name(guild_id)}** · {how_many}"


def why_text(used: PromptUsed) -> str:
    """What an answer was made of."""
    record = used.record
    lines = ["**What I had before me when I wrote this answer**", f"- {_persona(used)}", f"- {_pairs(used)}"]
    if record.num_examples:
        lines.append(f"- Examples of how I speak: {record.num_examples}")
    if record.lore:
        lines.append(f"- Entries of my lorebook: {len(record.lore)}")
    if used.summary is not None:
        lines += ["- A summary of what came before:", *_quoted(used.summary.text)]
    elif record.summary_id is not None:
        lines.append("- A summary of what came before, which is gone since")
    gone = len(record.fact_ids) - len(used.facts)
    if record.fact_ids:
        lines += ["- Notes about you:", *(f"> {shown(fact.text)}" for fact in used.facts)]
    if gone:
        lines.append(f"> *{'one' if gone == 1 else gone} that you have forgotten since*")
    if not record.fact_ids and record.summary_id is None:
        lines.append("- No notes about you, and no summary")
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
        return "Who I am: the default persona of this bot"
    name = "a persona that was deleted since" if used.persona_name is None else f"**{shown(used.persona_name)}**"
    return f"Who I am: {name}, version {record.persona_version}"


def _pairs(used: PromptUsed) -> str:
    known, before = used.record.num_pairs, used.num_before
    if not before:
        return "Our conversation: your message alone, nothing came before it"
    cut = max(0, before - known)
    said = "the one exchange" if known == 1 else f"the {known} exchanges"
    if not known:
        said = "nothing of what"
    rest = f"; {'an older one was' if cut == 1 else f'{cut} older ones were'} left out" if cut else ""
    return f"Our conversation: your message, and {said} before it{rest}"


def _summary_blocks(summary: Summary, shared: bool) -> list[str]:
    """One for each line: with what is escaped, a summary may be longer than a page."""
    what = "what everyone here shares with me" if shared else "our conversation here"
    first, *more = [*_quoted(summary.text), ""]
    return [f"**The earlier part of {what}**\n{first}", *more]


def _fact_block(number: int, fact: MemoryFact, links: Mapping[int, str]) -> str:
    at = f"{fact.source_at:%d %b %Y}"
    if fact.source_turn_id is None:
        source = f"{at}, written by you"
    else:
        link = links.get(fact.source_turn_id)
        source = f"{at}, from [what you said]({link})" if link else f"{at}, from what you said"
        source += ", changed by you" if fact.edited else ""
    if fact.private:
        source += ", in private"
    return f"{number}\\. {shown(fact.text)}\n-# {source}"


def _quoted(text: str) -> list[str]:
    return [f"> {shown(line)}" for line in text.split("\n")]
