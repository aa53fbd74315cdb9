"""Whether an entry of a lorebook counts for a message: its conditions and keys, in the texts that are searched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from unicodedata import normalize

from bot.characters.lore.entry import Lorebook, LoreEntry
from bot.characters.lore.key_index import MAX_WORK, folded
from bot.characters.lore.patterns import PatternScan
from bot.characters.macros import Macros, expand

DEFAULT_SCAN_DEPTH = 4
DEFAULT_BUDGET = 1024
MAX_SCAN_CHARS = 32_000
"""Of the newest messages together: what is searched for keys."""
_BEGINNING = 3
"""Letters of a key that must be in a text before it is searched for the rest."""
_KEY_WORK = 1_000
_MACRO_WORK = 16_000
_WORD_WORK = 200
"""What a key, one with macros, and a place where it may stand take as long as, in characters that are looked at."""


@dataclass(frozen=True, slots=True)
class LoreContext:
    """The chat as the entries see it."""

    messages: Sequence[str]
    """Of everybody, the oldest first, the new one last."""
    num_replies: int
    """Messages of the character so far."""
    greeting: int
    macros: Macros
    count_tokens: Callable[[str], int]
    max_tokens: int = DEFAULT_BUDGET
    """The budget where the card names none, and the most that a card may name."""


class Scan:
    """The texts of one message that keys are searched for in, each prepared once."""

    def __init__(self, book: Lorebook, context: LoreContext) -> None:
        self.context = context
        self.contents = ""
        """What entries have brought that count already."""
        self._book = book
        self._patterns = PatternScan()
        self._texts: dict[int, str] = {}
        self._with_contents: dict[int, str] = {}
        self._folded: dict[str, str] = {}
        self._bytes: dict[str, bytes] = {}
        self._beginnings: dict[str, frozenset[str]] = {}
        self._named: dict[str, str] = {}
        self._work = MAX_WORK
        self._earlier: str | None = None
        self._all = self._recent(len(context.messages))
        self.whole = self._fold(self._all)
        """All that may be searched, `folded`."""

    def add_contents(self, entries: Sequence[LoreEntry], macros: Macros) -> None:
        """Search what these entries say as well; their hidden keys count, and their comments do not."""
        shown = replace(macros, hidden_keys="keep")
        parts, room = [self.contents], MAX_SCAN_CHARS - len(self.contents)
        for entry in entries:
            if room <= 0:
                break
            parts.append(expand(entry.content, shown, room))
            room -= len(parts[-1]) + 1
        self.contents = normalize("NFC", "\n".join(parts)[:MAX_SCAN_CHARS])
        self._with_contents.clear()

    def is_match(self, entry: LoreEntry, *, is_found: bool) -> bool:
        """Whether the entry counts: its conditions, then its keys. `is_found`: one of them is somewhere in `whole`."""
        rules, context = entry.decorators, self.context
        if rules.activate:
            return True
        if rules.dont_activate or context.num_replies < rules.only_after:
            return False
        if rules.only_every and context.num_replies % rules.only_every:
            return False
        if rules.greeting is not None and rules.greeting != context.greeting:
            return False
        text = self._text(entry)
        if rules.exclude_keys and not entry.use_regex and self._has(entry, rules.exclude_keys, text):
            return False
        if not entry.use_regex and not all(self._has(entry, keys, text) for keys in rules.additional_keys):
            return False
        if entry.constant:
            return True
        if rules.dont_after_match and self._has(entry, entry.keys, self._before()):
            return False
        is_certain = is_found and text is self._all and not (entry.case_sensitive or entry.whole_words)
        if not is_certain and not self._has(entry, entry.keys, text):
            return False
        return not entry.secondary_keys or self._has(entry, entry.secondary_keys, text)

    def _text(self, entry: LoreEntry) -> str:
        depth = entry.scan_depth if entry.scan_depth is not None else self._book.scan_depth
        depth = DEFAULT_SCAN_DEPTH if depth is None else max(0, depth)
        if entry.decorators.keep_after_match:  # a match of earlier is a match now
            depth = max(depth, len(self.context.messages))
        if entry.no_recursion or not self.contents:
            return self._recent(depth)
        if depth not in self._with_contents:
            self._with_contents[depth] = f"{self._recent(depth)}\n{self.contents}"
        return self._with_contents[depth]

    def _before(self) -> str:
        if self._earlier is None:
            self._earlier = _newest(self.context.messages[:-1])
        return self._earlier

    def _recent(self, depth: int) -> str:
        depth = min(depth, len(self.context.messages))
        if depth not in self._texts:
            self._texts[depth] = _newest(self.context.messages[len(self.context.messages) - depth :])
        return self._texts[depth]

    def _fold(self, text: str) -> str:
        if text not in self._folded:
            self._folded[text] = folded(text)
        return self._folded[text]

    def _has(self, entry: LoreEntry, keys: Sequence[str], text: str) -> bool:
        """Whether one of the keys is in the text."""
        if entry.use_regex:
            if text not in self._bytes:
                self._bytes[text] = text.encode("utf-8", "replace")
            data = self._bytes[text]
            return any(self._patterns.is_in(key, data, case_sensitive=entry.case_sensitive) for key in keys)
        for key in keys:
            if self._work <= 0:  # a card may have a million keys: what is left counts as not found
                return False
            named = self._name(key)
            wanted, where = (named, text) if entry.case_sensitive else (folded(named), self._fold(text))
            if not wanted or wanted[:_BEGINNING] not in self._begins(where):
                continue
            self._work -= len(where)
            if wanted in where and (not entry.whole_words or self._has_word(wanted, where)):
                return True
        return False

    def _name(self, key: str) -> str:
        """The key with its macros replaced."""
        if key not in self._named:
            self._work -= _MACRO_WORK if "{{" in key or "<" in key else _KEY_WORK
            self._named[key] = normalize("NFC", expand(key, self.context.macros, 1000))
        self._work -= _KEY_WORK
        return self._named[key]

    def _begins(self, text: str) -> frozenset[str]:
        """All pieces of up to _BEGINNING letters that the text has."""
        if text not in self._beginnings:
            self._work -= len(text)
            self._beginnings[text] = frozenset(
                text[start : start + size] for size in range(1, _BEGINNING + 1) for start in range(len(text) - size + 1)
            )
        return self._beginnings[text]

    def _has_word(self, word: str, text: str) -> bool:
        """Whether the text has this word with no letter beside it."""
        start = text.find(word)
        while start >= 0 and self._work > 0:
            end = start + len(word)
            if not (start and _is_letter(text[start - 1])) and not (end < len(text) and _is_letter(text[end])):
                return True
            start = text.find(word, start + 1)
            self._work -= _WORD_WORK + (len(text) if start < 0 else start - end + len(word))
        return False


def _is_letter(character: str) -> bool:
    return character.isalnum() or character == "_"


def _newest(messages: Sequence[str]) -> str:
    """The end of these messages, as much of it as is searched."""
    parts: list[str] = []
    room = MAX_SCAN_CHARS
    for message in reversed(messages):
        if room <= 0:
            break
        parts.append(message[-room:])
        room -= len(message)
    return normalize("NFC", "\n".join(reversed(parts)))
