"""Which entries of a lorebook belong to a message: by its keys, its conditions and the budget of tokens. Pure.

The rules are those of version 3; where they leave a choice, `docs/characters.md` says which one is taken. Built once
for a card and asked once for a message.
"""

from __future__ import annotations

from dataclasses import dataclass

from bot.characters.lore.entry import Lorebook, LoreEntry
from bot.characters.lore.key_index import KeyIndex, folded
from bot.characters.lore.matching import LoreContext, Scan
from bot.characters.macros import expand

_MAX_ROUNDS = 5
"""How often entries may bring further entries."""
_MAX_TOO_LARGE = 20
_MAX_TOO_LARGE_CHARS = 200_000
"""Entries larger than the whole budget that are passed over, and what they may have together."""


@dataclass(frozen=True, slots=True)
class Lore:
    """An entry that belongs to the message, and its text with the macros replaced."""

    entry: LoreEntry
    text: str


class LoreScanner:
    """The entries of one card, ready to be searched for."""

    def __init__(self, book: Lorebook) -> None:
        self._book = book
        usable = [entry for entry in book.entries if entry.enabled and entry.content]
        self._by_key: dict[str, list[LoreEntry]] = {}
        self._always: list[LoreEntry] = []  # looked at for each message, whatever its words
        for entry in usable:
            names_change = any("{{" in key or "<" in key for key in entry.keys)
            if entry.constant or entry.use_regex or entry.decorators.activate or names_change:
                self._always.append(entry)
                continue
            for key in entry.keys:
                self._by_key.setdefault(folded(key), []).append(entry)
        self._index = KeyIndex(self._by_key)

    def select(self, context: LoreContext) -> tuple[Lore, ...]:
        """The entries for the newest message, in the order in which they stand in the prompt."""
        scan = Scan(self._book, context)
        matched: dict[int, LoreEntry] = {}
        new = self._matching(scan, scan.whole, matched)
        for _ in range(_MAX_ROUNDS if self._book.recursive else 0):
            if not new:
                break
            scan.add_contents(new, context.macros)
            new = self._matching(scan, folded(scan.contents), matched, is_recursive=True)
        chosen = _within_budget(list(matched.values()), self._book, context)
        return tuple(sorted(chosen, key=lambda lore: (lore.entry.order, lore.entry.index)))

    def _matching(
        self, scan: Scan, text: str, matched: dict[int, LoreEntry], *, is_recursive: bool = False
    ) -> list[LoreEntry]:
        """Entries that are new to `matched`, which they join."""
        candidates = {entry.index: (entry, False) for entry in self._always}
        for key in self._index.present(text):
            candidates.update((entry.index, (entry, not is_recursive)) for entry in self._by_key[key])
        new: list[LoreEntry] = []
        for index, (entry, is_found) in sorted(candidates.items()):
            if index in matched or (is_recursive and entry.no_recursion):
                continue
            if scan.is_match(entry, is_found=is_found):
                matched[index] = entry
                new.append(entry)
        return new


def _within_budget(matched: list[LoreEntry], book: Lorebook, context: LoreContext) -> list[Lore]:
    """Without the entries of the lowest priority, if all together have too many tokens."""
    stated = context.max_tokens if book.token_budget is None else book.token_budget
    whole = left = max(0, min(stated, context.max_tokens))
    num_too_large = num_chars = 0

    def rank(entry: LoreEntry) -> tuple[bool, float, int]:
        importance = entry.order if entry.priority is None else entry.priority
        return entry.decorators.ignore_on_max_context, -importance, entry.index

    kept: list[Lore] = []
    for entry in sorted(matched, key=rank):
        text = expand(entry.content, context.macros).strip()
        size = context.count_tokens(text) if text else 0
        if size > whole and num_too_large < _MAX_TOO_LARGE and num_chars < _MAX_TOO_LARGE_CHARS:
            num_too_large += 1  # it fits beside nothing: no reason to leave out others
            num_chars += len(entry.content)
            continue
        left -= size
        if left < 0:
            break
        if text:
            kept.append(Lore(entry, text))
    return kept
