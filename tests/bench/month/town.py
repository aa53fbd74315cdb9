"""The guilds and members of the month: a few guilds and members say most, and some come and go every day.

Knows who is where, and how much each has asked today. Knows no command and no database.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass, field

from tests.fakes.discord.server import Channel, FakeDiscord, Guild, Message, User

ZIPF = 0.9
"""The n-th largest guild has 1/n^ZIPF of the members of the largest."""
SKEW = 2.0
"""How uneven the members of a guild are: 1 is even."""
LEAVING = 0.01
"""Share of the guilds, and of the members, that leave on a day; as many come."""
RETURNING = 0.3
"""Share of the guilds that left which come back, some days later."""
BIG = 50
"""Members from which on a guild has three channels."""
REMEMBERING = 0.1
"""Share of the guilds, the largest, where the memory is on."""


@dataclass(slots=True, eq=False)
class Member:
    """One member of one guild. `last`: the last answer that they got."""

    user: User
    home: Home
    channel: Channel
    busy: bool = False
    remembered: bool = False
    last: Message | None = None


@dataclass(slots=True, eq=False)
class Home:
    """One guild, the member who manages it, and all members."""

    guild: Guild
    manager: User
    size: int
    members: list[Member] = field(default_factory=list)
    remembers: bool = False


class Town:
    """All guilds that the bot is in, and those that it left lately."""

    def __init__(self, discord: FakeDiscord, rng: random.Random, *, guilds: int, members: int) -> None:
        self.discord = discord
        self.rng = rng
        self.left: list[Home] = []
        self.left_ids: set[int] = set()
        self.asked_today: Counter[int] = Counter()  # by the id of a guild, and of a member
        self._names = itertools.count(1)
        weights = [1 / number**ZIPF for number in range(1, guilds + 1)]
        sizes = [max(2, round(members * weight / sum(weights))) for weight in weights]
        self.homes = [self.found(size) for size in sizes]
        self._total = list(itertools.accumulate(sizes))

    @property
    def num_members(self) -> int:
        return sum(len(home.members) for home in self.homes)

    def found(self, size: int) -> Home:
        """A new guild with this number of members. The bot has not joined it yet."""
        name = f"town{next(self._names)}"
        manager = self.discord.user(f"{name}boss")
        home = Home(self.discord.guild(name, managers=(manager,)), manager, size)
        if size >= BIG:
            for number in range(2):
                self.discord.channel(home.guild, f"more{number}")
        home.members = [self.newcomer(home) for _ in range(size)]
        return home

    def newcomer(self, home: Home) -> Member:
        return Member(self.discord.user(f"m{next(self._names)}"), home, self.rng.choice(home.guild.channels))

    def someone(self) -> Member:
        """A member, the active ones more often."""
        [home] = self.rng.choices(self.homes, cum_weights=self._total)
        return home.members[int(len(home.members) * self.rng.random() ** SKEW)]

    async def night(self) -> None:
        """Some members and guilds leave, others come; a few guilds come back."""
        self.asked_today.clear()
        for _ in range(round(self.num_members * LEAVING)):
            home = self.rng.choices(self.homes, cum_weights=self._total)[0]
            home.members[self.rng.randrange(len(home.members))] = self.newcomer(home)
        for _ in range(max(1, round(len(self.homes) * LEAVING))):
            place = self.rng.randrange(len(self.homes))
            gone = self.homes[place]
            await self.discord.remove(gone.guild)
            self.left.append(gone)
            self.left_ids.add(gone.guild.id)
            if self.rng.random() < RETURNING and len(self.left) > 1:
                self.homes[place] = self.left.pop(0)
                self.left_ids.discard(self.homes[place].guild.id)
                for member in self.homes[place].members:
                    member.last = None
            else:
                self.homes[place] = self.found(gone.size)
            await self.discord.join(self.homes[place].guild)
        self._total = list(itertools.accumulate(home.size for home in self.homes))
