"""The lorebook of a card and its entries, as values read from the card's JSON. Pure.

The fields are those of versions 2 and 3; of what SillyTavern keeps in `extensions`, those are read that change when an
entry counts (scan depth, whole words, case, depth in the chat).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from bot.characters.lore.decorators import Decorators, split_decorators
from bot.characters.refused import CardRefused
from bot.characters.values import flag, mapping, number, text, texts, whole
from bot.i18n.language import gettext as _
from bot.text import clean_text

MAX_ENTRIES = 20_000
_AT_DEPTH = 4
"""SillyTavern's number for a position that its `depth` names."""
Position = Literal["before_char", "after_char", "before_desc", "after_desc", "personality", "scenario"]
_POSITIONS: Mapping[str, Position] = {position: position for position in get_args(Position)}


@dataclass(frozen=True, slots=True)
class LoreEntry:
    """One entry. `index` counts the entries of its book from 0."""

    index: int
    keys: tuple[str, ...] = field(repr=False)
    content: str = field(repr=False)
    enabled: bool = True
    order: float = 0
    priority: float | None = None
    case_sensitive: bool = False
    whole_words: bool = False
    constant: bool = False
    use_regex: bool = False
    secondary_keys: tuple[str, ...] = field(default=(), repr=False)
    """One of them must be there too; empty if the entry is not selective."""
    position: Position | None = None
    depth: int | None = None
    scan_depth: int | None = None
    no_recursion: bool = False
    """Other entries do not bring this one."""
    decorators: Decorators = field(default_factory=Decorators, repr=False)


@dataclass(frozen=True, slots=True)
class Lorebook:
    """All entries of a card, and what holds for them together. None: the card says nothing of it."""

    entries: tuple[LoreEntry, ...]
    scan_depth: int | None = None
    token_budget: int | None = None
    recursive: bool = False


def read_lorebook(data: Mapping[str, Any]) -> Lorebook:
    """The lorebook that this JSON is. Raises CardRefused."""
    entries = data.get("entries")
    if isinstance(entries, dict):
        entries = list(entries.values())
    if entries is None:
        entries = []
    if not isinstance(entries, list):
        raise CardRefused(_("The field `entries` of this card's lorebook must be a list."))
    if len(entries) > MAX_ENTRIES:
        too_many = _("This card's lorebook has {number:,} entries; I take at most {limit:,}.")
        raise CardRefused(too_many.format(number=len(entries), limit=MAX_ENTRIES))
    return Lorebook(
        entries=tuple(_entry(index, entry) for index, entry in enumerate(entries)),
        scan_depth=_stated(data, "scan_depth"),
        token_budget=_stated(data, "token_budget"),
        recursive=flag(data, "recursive_scanning") is True,
    )


def _stated(data: Mapping[str, Any], name: str) -> int | None:
    """A number above 0. Converters write 0 where the card they had said nothing; it would silence the whole book."""
    value = whole(data, name)
    return value if value is not None and value > 0 else None


def _entry(index: int, data: object) -> LoreEntry:
    if not isinstance(data, dict):
        raise CardRefused(_("Entry {number} of this card's lorebook must be an object.").format(number=index + 1))
    try:
        return _read_entry(index, data)
    except CardRefused as refused:
        why = _("Entry {number} of the lorebook: {why}").format(number=index + 1, why=refused.user_message)
        raise CardRefused(why) from None


def _read_entry(index: int, data: Mapping[str, Any]) -> LoreEntry:
    extensions = mapping(data, "extensions")
    decorators, content = split_decorators(clean_text(text(data, "content")))
    use_regex = flag(data, "use_regex") is True
    stated_case = flag(data, "case_sensitive")
    case_sensitive = flag(extensions, "case_sensitive") if stated_case is None else stated_case
    secondary = texts(data, "secondary_keys", split=True) if flag(data, "selective") is True and not use_regex else ()
    at_depth = whole(extensions, "position") == _AT_DEPTH
    place = decorators.position or (None if at_depth or decorators.depth is not None else text(data, "position"))
    depth = decorators.depth if decorators.depth is not None else whole(extensions, "depth") if at_depth else None
    scan_depth = decorators.scan_depth if decorators.scan_depth is not None else whole(extensions, "scan_depth")
    return LoreEntry(
        index=index,
        keys=_usable(texts(data, "keys", split=not use_regex)),
        content=content.strip(),
        enabled=flag(data, "enabled") is not False,
        order=number(data, "insertion_order") or 0,
        priority=number(data, "priority"),
        case_sensitive=case_sensitive is True,
        whole_words=flag(extensions, "match_whole_words") is True,
        constant=flag(data, "constant") is True and not use_regex,
        use_regex=use_regex,
        secondary_keys=_usable(secondary),
        position=_POSITIONS.get(place or ""),
        depth=None if decorators.position else depth,
        scan_depth=scan_depth,
        no_recursion=flag(extensions, "exclude_recursion") is True,
        decorators=decorators,
    )


def _usable(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Keys that are not blank: an empty one would be in every text."""
    return tuple(key.strip() for key in keys if key.strip())
