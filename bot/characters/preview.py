"""What would become of a card here: which fields are used, kept and ignored, how many tokens it takes. Pure.

Knows no language of a chat program: lines are plain texts, and what a card wrote in them is not escaped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bot.characters.assembly import template_of
from bot.characters.card import MAX_GREETING_CHARS, CharacterCard
from bot.characters.examples import read_examples
from bot.characters.files.reading import ImportedCard
from bot.characters.lore.entry import Lorebook
from bot.characters.lore.patterns import is_usable
from bot.characters.macros import Macros, unknown_macros

_MAX_NAMED = 5
_MAX_SECONDS = 0.5
"""Of the processor, to try the patterns of a lorebook: one may take ten milliseconds, and a card has thousands."""


@dataclass(frozen=True, slots=True)
class Preview:
    """The lines of a preview. `name` and `notes` are the card's own words."""

    name: str
    used: tuple[str, ...]
    kept: tuple[str, ...]
    """Not used here, and part of every export."""
    ignored: tuple[str, ...]
    """Not used, and why; what is lost says so."""
    notes: str = field(default="", repr=False)
    creator: str = ""


def preview(imported: ImportedCard, *, has_picture: bool) -> Preview:
    """What would become of this card. `has_picture`: whether its picture could be kept."""
    card = imported.card
    return Preview(
        name=card.name,
        used=tuple(_used(card, has_picture)),
        kept=tuple(_kept(card)),
        ignored=tuple(_ignored(imported, has_picture)),
        notes=card.creator_notes,
        creator=card.creator,
    )


def limited_text(card: CharacterCard) -> str:
    """What every prompt of this character has: it counts for the limits of a persona."""
    prose = read_examples(card.examples, card.name, card.nickname, Macros(card.char, "User")).prose
    return "\n\n".join(part for part in (template_of(card), prose, card.post_history_instructions) if part)


def _used(card: CharacterCard, has_picture: bool) -> list[str]:
    lines = [
        f"{label} ({len(text):,} characters)"
        for label, text in (
            ("system prompt", card.system_prompt),
            ("description", card.description),
            ("personality", card.personality),
            ("scenario", card.scenario),
            ("instructions after the history", card.post_history_instructions),
        )
        if text
    ]
    num_greetings = sum(bool(greeting) for greeting in card.greetings)
    if num_greetings:
        lines.append(_counted(num_greetings, "greeting"))
    if card.examples:
        examples = read_examples(card.examples, card.name, card.nickname, Macros(card.char, "User"))
        if examples.pairs:
            lines.append(_counted(len(examples.pairs), "example exchange"))
        if examples.prose:
            lines.append("examples that are no dialog, as a part of the description")
    if card.nickname:
        lines.append("nickname, for {{char}}")
    if card.book and (count := sum(bool(e.enabled and e.content) for e in card.book.entries)):
        constant = sum(bool(e.enabled and e.content and e.constant) for e in card.book.entries)
        lines.append(
            f"lorebook: {_counted(count, 'entry', 'entries')}" + (f", {constant:,} always" if constant else "")
        )
    return [*lines, "picture"] if has_picture else lines


def _kept(card: CharacterCard) -> list[str]:
    lines = [label for label, value in (("creator’s notes", card.creator_notes), ("creator", card.creator)) if value]
    if card.character_version:
        lines.append("character version")
    if card.num_group_greetings:
        lines.append(_counted(card.num_group_greetings, "greeting") + " for groups")
    if card.assets:
        lines.append(f"list of {_counted(len(card.assets), 'asset')}")
    if card.extensions:
        lines.append(f"extensions: {_named(card.extensions)}")
    return lines


def _ignored(imported: ImportedCard, has_picture: bool) -> list[str]:
    card = imported.card
    lines: list[str] = []
    if card.is_newer:
        lines.append("what is new since version 3.0: the card states a newer one")
    if imported.is_animated and has_picture:
        lines.append("the animation of its picture: only the first frame is kept")
    if imported.num_assets:
        lines.append(f"{_counted(imported.num_assets, 'packed file')}: not kept, and no export has them")
    if card.num_long_greetings:
        lines.append(f"{_counted(card.num_long_greetings, 'greeting')} longer than {MAX_GREETING_CHARS:,} characters")
    texts = (card.system_prompt, card.description, card.personality, card.scenario, card.post_history_instructions)
    unknown = unknown_macros("\n".join((*texts, card.examples, *card.greetings)))
    if unknown:
        lines.append(
            f"macros that I do not know and leave as they are: {_named([f'{{{{{name}}}}}' for name in unknown])}"
        )
    book = card.book
    if book is not None:
        off = sum(not entry.enabled or not entry.content for entry in book.entries)
        if off:
            lines.append(f"{_counted(off, 'lorebook entry', 'lorebook entries')} switched off or empty")
        broken, untried = _broken_patterns(book)
        if broken:
            lines.append(
                f"{_counted(broken, 'lorebook entry', 'lorebook entries')} with patterns that I cannot search for "
                "(look-around, back references, or too large)"
            )
        if untried:
            lines.append(
                f"{_counted(untried, 'lorebook entry', 'lorebook entries')} whose patterns I did not try: they are too "
                "many or too large, and a message may leave some of them unsearched"
            )
        names = dict.fromkeys(f"@@{name}" for entry in book.entries for name in entry.decorators.ignored)
        if names:
            lines.append(f"decorators of the lorebook: {_named(list(names))}")
    return lines


def _broken_patterns(book: Lorebook) -> tuple[int, int]:
    """How many entries have no pattern that can be searched for, and how many were not tried for want of time."""
    started = time.thread_time()
    broken = untried = 0
    for entry in book.entries:
        if not (entry.enabled and entry.use_regex):
            continue
        for key in entry.keys:
            if time.thread_time() - started > _MAX_SECONDS:
                untried += 1
                break
            if is_usable(key):
                break
        else:
            broken += 1
    return broken, untried


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(name[:40] for name in names[:_MAX_NAMED])
    return f"{shown} and {len(names) - _MAX_NAMED:,} more" if len(names) > _MAX_NAMED else shown


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
