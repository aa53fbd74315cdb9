"""What the operator's page lists: rows of ids, times and numbers, and the turns of one conversation."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime

from models.types.administration import AnswerTiming
from models.types.dialogs import StoredFile
from models.types.keys import EVERYBODY, DialogKey


@dataclass(frozen=True, slots=True)
class GuildRow:
    """A guild in the list. `num_dialogs` is counted up to a limit."""

    guild_id: int
    first_seen_at: datetime
    removed_at: datetime | None
    last_active_at: datetime | None
    num_dialogs: int


@dataclass(frozen=True, slots=True)
class MemberRow:
    """A person in the list of a guild, or of all guilds. `num_dialogs`: of their own, counted up to a limit."""

    user_id: int
    num_dialogs: int
    last_used_on: date | None
    blocked: bool = False
    opted_out: bool = False


@dataclass(frozen=True, slots=True)
class DialogRow:
    """A dialog in the list, without its name. `num_turns`: in any state, counted up to a limit."""

    dialog_id: int
    guild_id: int
    user_id: int
    channel_id: int
    opened_at: datetime
    last_active_at: datetime
    ended_at: datetime | None
    end_reason: str | None
    parked_at: datetime | None
    purge_id: int | None
    num_turns: int

    @property
    def shared(self) -> bool:
        """Whether all members of its channel share it."""
        return self.user_id == EVERYBODY

    @property
    def key(self) -> DialogKey:
        """Its tenant key."""
        return DialogKey(self.guild_id, self.user_id, self.channel_id, self.shared)


@dataclass(frozen=True, slots=True)
class TurnView:
    """A turn with its figures. The texts are None where they are not to be shown, `withheld` if that is why."""

    turn_id: int
    author_id: int | None
    status: str
    created_at: datetime
    prompt_tokens: int | None
    completion_tokens: int | None
    finish_reason: str | None
    first_token_ms: int | None
    total_ms: int | None
    error_id: str | None
    persona_id: int | None
    persona_version: int | None
    num_pairs: int | None
    """Pairs of history in its prompt; None: no prompt is recorded."""
    first_turn_id: int | None
    num_left_out: int
    """Earlier pairs of the dialog that its prompt did not contain, counted up to a limit."""
    summarised: bool
    num_replies: int
    withheld: bool = False
    author_name: str | None = field(default=None, repr=False)
    user_text: str | None = field(default=None, repr=False)
    reply: str | None = field(default=None, repr=False)
    answered_by: str | None = field(default=None, repr=False)
    files: tuple[StoredFile, ...] = ()
    model: str | None = None
    """Which model wrote the reply, as its server calls it."""


@dataclass(frozen=True, slots=True)
class PersonaRow:
    """A persona in the list of a guild. `owner_id`: whose own it is; None: the guild's."""

    persona_id: int
    guild_id: int
    owner_id: int | None
    name: str | None
    """None for a member's own: its name is theirs."""
    active_version: int
    updated_at: datetime
    age_restricted: bool


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A turn in which the words of a search were found."""

    turn_id: int
    dialog_id: int
    guild_id: int
    author_id: int | None
    created_at: datetime
    user_text: str = field(repr=False)
    reply: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SearchScope:
    """Which turns a search looks at. `private`: also those of private conversations."""

    guild_id: int | None = None
    member_id: int | None = None
    private: bool = False


@dataclass(frozen=True, slots=True)
class OperatorFigures:
    """What one application has. `answers`: the last ones, a bounded number of them."""

    answers: tuple[AnswerTiming, ...]
    num_guilds: int
    num_members: int
    num_open_dialogs: int
    num_pending: int
    """Turns whose replies are being written."""
