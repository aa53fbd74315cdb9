"""Personas, where they answer, how they are seen, and the scenes that they play in."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

PersonaLevel = Literal["default", "guild", "category", "channel", "thread", "member"]


StoredLevel = Literal["guild", "category", "channel", "thread", "member"]


PersonaPlace = Literal["guild", "category", "channel", "thread"]


OwnPersonas = Literal["members", "roles", "nobody"]


PersonaFace = Literal["off", "name", "profile", "webhook"]
"""How a persona is seen: not at all, by its name above the reply, as the bot's own profile in the guild, or through a
webhook."""


ProfileProblem = Literal["forbidden", "refused", "slower", "sending"]
"""What Discord had against a profile; "sending": nobody knows yet whether it arrived."""


SceneOrder = Literal["turn", "model"]
"""Who speaks in a scene if the message names no character."""


@dataclass(frozen=True, slots=True)
class PersonaText:
    """The system prompt that applies, and the level that it is set at. `name` is "" if it was stored without one."""

    level: PersonaLevel
    name: str
    prompt: str = field(repr=False)
    version: int
    persona_id: int = 0
    """0: the operator's default, which no table holds as a persona."""
    card: str | None = field(default=None, repr=False)
    """The JSON of the character card that it was made from."""
    age_restricted: bool = False


@dataclass(frozen=True, slots=True)
class StoredCard:
    """What a persona is made of: its text, the JSON of its card if it has one, and its picture, a PNG (b"": none)."""

    prompt: str = field(repr=False)
    json: str | None = field(default=None, repr=False)
    picture: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class PersonaScope:
    """Where a message was written, as far as it decides which persona answers. 0: there is no such place.

    It does not depend on whose dialog the message belongs to. `own_allowed`: whether the member's own persona may
    answer here; in a dialog that several members share it never does.
    """

    category_id: int = 0
    channel_id: int = 0
    thread_id: int = 0
    own_allowed: bool = True
    face: PersonaFace = "off"
    """How the guild wants personas to be seen."""
    age_restricted: bool = False
    """Whether Discord restricts the channel by age: only there a persona marked so answers."""


NO_PLACE = PersonaScope()
"""The scope of a message that was written in no channel: in the terminal, or in direct messages."""


@dataclass(frozen=True, slots=True)
class PersonaLevelInfo:
    """One level at which a persona is set for a place or a member, whether or not it is the one that answers."""

    level: StoredLevel
    place_id: int
    persona_id: int
    name: str
    version: int
    age_restricted: bool = False


@dataclass(frozen=True, slots=True)
class PersonaInfo:
    """An entry of a library of personas, without its text. `own`: a member's private one, else the guild's."""

    persona_id: int
    name: str
    tags: tuple[str, ...]
    active_version: int
    own: bool
    created_at: datetime
    age_restricted: bool = False
    """Whether it answers only in channels that Discord restricts by age."""


@dataclass(frozen=True, slots=True)
class PersonaAssignmentInfo:
    """A level at which a persona of a library is set. `place_id` is 0 for the guild and for a member."""

    level: StoredLevel
    place_id: int


@dataclass(frozen=True, slots=True)
class SceneInfo:
    """The characters that answer in a channel or thread, in their order."""

    place_id: int
    speak: SceneOrder
    characters: tuple[PersonaText, ...]


@dataclass(frozen=True, slots=True)
class PersonaVersionInfo:
    """One stored version of a persona, as /persona lists them for a rollback."""

    version: int
    name: str
    prompt: str = field(repr=False)
    author_id: int | None
    created_at: datetime
    active: bool
    card: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class WantedProfile:
    """What the bot's own profile in a guild shall show. `fingerprint`: "" for its own name and picture."""

    persona_id: int | None
    name: str
    picture: bytes | None = field(repr=False)
    fingerprint: str


@dataclass(frozen=True, slots=True)
class SentProfile:
    """What Discord was sent last, and what it had against that."""

    fingerprint: str
    problem: ProfileProblem | None
    sent_at: datetime
