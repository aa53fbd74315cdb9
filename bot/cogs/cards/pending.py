"""Cards whose preview is shown: kept in memory until their member imports them, or does not.

Nothing of a card is stored before that. Bounded in number, size and time, and gone after a restart: the member then
uses the command again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from bot.characters.card import CharacterCard, read_card
from bot.characters.files.json_card import parse

KEPT_FOR = 900.0
"""Seconds: as long as the preview can be edited."""
MAX_PER_MEMBER = 3
MAX_KEPT = 100
MAX_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class PendingCard:
    """A card that a member looks at, and what the command said of it."""

    guild_id: int
    json: str = field(repr=False)
    """The card. Parsed it takes ten times as much memory."""
    char: str
    greetings: tuple[str, ...] = field(repr=False)
    picture: bytes = field(repr=False)
    user: str = field(repr=False)
    """How the member is called."""
    name: str
    """The name that the command gave; "" for the card's own."""
    replace: bool
    text: str = field(repr=False)
    """What the preview says."""
    greeting: int = 0
    own: bool = True
    """Whether it may go to the member's library, and with `guild` to the guild's."""
    guild: bool = False

    @property
    def num_bytes(self) -> int:
        """About the memory that it takes."""
        return len(self.json) + len(self.picture) + sum(map(len, self.greetings))

    def card(self) -> CharacterCard:
        """The card, read again: for a large one not in an event loop."""
        return read_card(parse(self.json))


class PendingCards:
    """The cards of all members, each for the one who sent it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[tuple[int, int], tuple[float, PendingCard]] = OrderedDict()

    def keep(self, user_id: int, number: int, pending: PendingCard) -> None:
        """Keep a card under a number. A member's own oldest go first, then the oldest of all."""
        self._forget_old()
        self._kept.pop((user_id, number), None)
        own = [key for key in self._kept if key[0] == user_id]
        for key in own[: max(0, len(own) - MAX_PER_MEMBER + 1)]:
            del self._kept[key]
        self._kept[user_id, number] = (self._clock(), pending)
        while len(self._kept) > 1 and (
            len(self._kept) > MAX_KEPT or sum(each.num_bytes for _, each in self._kept.values()) > MAX_BYTES
        ):
            self._kept.popitem(last=False)

    def find(self, user_id: int, number: int, guild_id: int) -> PendingCard | None:
        """The member's card of this number in this guild, if it is still kept."""
        self._forget_old()
        _, pending = self._kept.get((user_id, number), (0.0, None))
        return pending if pending is not None and pending.guild_id == guild_id else None

    def forget(self, user_id: int, number: int) -> None:
        """Drop a card: it was imported, or is not to be."""
        self._kept.pop((user_id, number), None)

    def __len__(self) -> int:
        return len(self._kept)

    def _forget_old(self) -> None:
        before = self._clock() - KEPT_FOR
        while self._kept and next(iter(self._kept.values()))[0] < before:
            self._kept.popitem(last=False)
