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
from bot.i18n.language import gettext as _
from bot.i18n.language import ngettext

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
    sized = _("{field} ({number:,} characters)")
    lines = [
        sized.format(field=label, number=len(text))
        for label, text in (
            (_("system prompt"), card.system_prompt),
            (_("description"), card.description),
            (_("personality"), card.personality),
            (_("scenario"), card.scenario),
            (_("instructions after the history"), card.post_history_instructions),
        )
        if text
    ]
    num_greetings = sum(bool(greeting) for greeting in card.greetings)
    if num_greetings:
        lines.append(_greetings(num_greetings))
    if card.examples:
        examples = read_examples(card.examples, card.name, card.nickname, Macros(card.char, "User"))
        if examples.pairs:
            text = ngettext("{number:,} example exchange", "{number:,} example exchanges", len(examples.pairs))
            lines.append(text.format(number=len(examples.pairs)))
        if examples.prose:
            lines.append(_("examples that are no dialog, as a part of the description"))
    if card.nickname:
        lines.append(_("nickname, for {{char}}"))
    if card.book and (count := sum(bool(e.enabled and e.content) for e in card.book.entries)):
        constant = sum(bool(e.enabled and e.content and e.constant) for e in card.book.entries)
        entries = ngettext("lorebook: {number:,} entry", "lorebook: {number:,} entries", count).format(number=count)
        if constant:
            entries = _("{entries}, {number:,} always").format(entries=entries, number=constant)
        lines.append(entries)
    return [*lines, _("picture")] if has_picture else lines


def _kept(card: CharacterCard) -> list[str]:
    fields = ((_("creator’s notes"), card.creator_notes), (_("creator"), card.creator))
    lines = [label for label, value in fields if value]
    if card.character_version:
        lines.append(_("character version"))
    if card.num_group_greetings:
        for_groups = ngettext(
            "{number:,} greeting for groups", "{number:,} greetings for groups", card.num_group_greetings
        )
        lines.append(for_groups.format(number=card.num_group_greetings))
    if card.assets:
        listed = ngettext("list of {number:,} asset", "list of {number:,} assets", len(card.assets))
        lines.append(listed.format(number=len(card.assets)))
    if card.extensions:
        lines.append(_("extensions: {names}").format(names=_named(card.extensions)))
    return lines


def _ignored(imported: ImportedCard, has_picture: bool) -> list[str]:
    card = imported.card
    lines: list[str] = []
    if card.is_newer:
        lines.append(_("what is new since version 3.0: the card states a newer one"))
    if imported.is_animated and has_picture:
        lines.append(_("the animation of its picture: only the first frame is kept"))
    if imported.num_assets:
        packed = ngettext(
            "{number:,} packed file: not kept, and no export has them",
            "{number:,} packed files: not kept, and no export has them",
            imported.num_assets,
        )
        lines.append(packed.format(number=imported.num_assets))
    if card.num_long_greetings:
        long = ngettext(
            "{number:,} greeting longer than {limit:,} characters",
            "{number:,} greetings longer than {limit:,} characters",
            card.num_long_greetings,
        )
        lines.append(long.format(number=card.num_long_greetings, limit=MAX_GREETING_CHARS))
    texts = (card.system_prompt, card.description, card.personality, card.scenario, card.post_history_instructions)
    unknown = unknown_macros("\n".join((*texts, card.examples, *card.greetings)))
    if unknown:
        named = _named([f"{{{{{name}}}}}" for name in unknown])
        lines.append(_("macros that I do not know and leave as they are: {names}").format(names=named))
    book = card.book
    if book is not None:
        off = sum(not entry.enabled or not entry.content for entry in book.entries)
        if off:
            text = ngettext(
                "{number:,} lorebook entry switched off or empty",
                "{number:,} lorebook entries switched off or empty",
                off,
            )
            lines.append(text.format(number=off))
        broken, untried = _broken_patterns(book)
        if broken:
            text = ngettext(
                "{number:,} lorebook entry with patterns that I cannot search for "
                "(look-around, back references, or too large)",
                "{number:,} lorebook entries with patterns that I cannot search for "
                "(look-around, back references, or too large)",
                broken,
            )
            lines.append(text.format(number=broken))
        if untried:
            text = ngettext(
                "{number:,} lorebook entry whose patterns I did not try: they are too "
                "many or too large, and a message may leave some of them unsearched",
                "{number:,} lorebook entries whose patterns I did not try: they are too "
                "many or too large, and a message may leave some of them unsearched",
                untried,
            )
            lines.append(text.format(number=untried))
        names = dict.fromkeys(f"@@{name}" for entry in book.entries for name in entry.decorators.ignored)
        if names:
            lines.append(_("decorators of the lorebook: {names}").format(names=_named(list(names))))
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
    if len(names) <= _MAX_NAMED:
        return shown
    return _("{names} and {number:,} more").format(names=shown, number=len(names) - _MAX_NAMED)


def _greetings(count: int) -> str:
    return ngettext("{number:,} greeting", "{number:,} greetings", count).format(number=count)
