"""What is remembered beyond a prompt: facts, summaries, and the work of writing them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from models.types.keys import DialogKey


@dataclass(frozen=True, slots=True)
class MemoryFact:
    """A sentence that is remembered about a member. `edited`: they wrote or changed it themselves."""

    fact_id: int
    text: str = field(repr=False)
    source_turn_id: int | None
    source_at: datetime
    """When it was said."""
    edited: bool = False
    private: bool = False
    """Whether it was told where only the member saw the reply: it stands in no prompt of a shared dialog."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a dialog was about, from one turn to another."""

    summary_id: int
    text: str = field(repr=False)
    from_turn_id: int
    to_turn_id: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class RememberedPair:
    """A finished turn as it is read to be remembered. `author`: a name, in shared dialogs only."""

    turn_id: int
    author_id: int
    author: str | None
    user: str = field(repr=False)
    reply: str = field(repr=False)
    finished_at: datetime | None
    wants_facts: bool
    """Whether its author has memory on."""


@dataclass(frozen=True, slots=True)
class MemoryTask:
    """A dialog that may have something to remember, with the figures by which that is decided."""

    key: DialogKey
    dialog_id: int
    last_active_at: datetime
    ended: bool
    guild_chat_logs: int | None
    own_chat_logs: int | None
    num_pairs: int
    num_new: int
    """Pairs that no summary covers."""
    last_num_pairs: int | None
    """Pairs in the prompt of the last turn, if that is known."""
    last_turn_id: int
    facts_to_turn_id: int
    guild_model: str | None = None
    """The name of the model that the guild chose."""
