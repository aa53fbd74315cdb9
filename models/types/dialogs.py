"""What dialogs hold: pairs, files, variants of replies, and lists of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

UNNAMED_SPEAKER = "member"
"""Who wrote a message where members have no names: in a dialog of their own."""

ConversationChange = Literal["done", "same", "gone", "taken", "full", "opted out"]


FileKind = Literal["file", "quote", "quoted file"]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A text that came with a message: a file that its member attached, or what they asked about.

    Of a quoted message `name` is its author's, and `author_id` who that is: what they wrote is theirs, wherever it is.
    `content` is empty for a picture, and for what could not be read.
    """

    name: str = field(repr=False)
    content: str = field(repr=False)
    note: str = ""
    """What the model is told beside the name, such as the number of pages, or where the text was cut."""
    kind: FileKind = "file"
    author_id: int | None = None


@dataclass(frozen=True, slots=True)
class Speaker:
    """A persona whose name stands above a reply, by the name that it had then."""

    persona_id: int
    name: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pair:
    """One finished turn: what the member wrote, and its active reply. `author` is a name, in shared dialogs only."""

    turn_id: int
    user: str
    reply: str
    author: str | None = None
    files: tuple[StoredFile, ...] = ()
    speaker: Speaker | None = None
    """Which persona gave the reply, where its name stands above it."""
    heard: str = field(default="", repr=False)
    """What another character of the scene replied, as its listeners read it; `reply` is empty then."""


@dataclass(frozen=True, slots=True)
class DialogHead:
    """A dialog that a member may read: its id and name, and whether it has ended."""

    dialog_id: int
    name: str | None
    ended: bool
    shared: bool = False
    """Whether it belongs to all members of a channel or thread."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One finished turn as a member reads it again. `own`: they asked it; `author`: a name, in shared dialogs only."""

    turn_id: int
    dialog_id: int
    at: datetime
    user: str
    reply: str
    own: bool = True
    author: str | None = None
    files: tuple[StoredFile, ...] = ()


@dataclass(frozen=True, slots=True)
class ConversationInfo:
    """A conversation in the list of its key. `beginning`: what was said first, where it has no name."""

    dialog_id: int
    name: str | None
    beginning: str | None
    last_active_at: datetime
    in_use: bool
    num_pairs: int


@dataclass(frozen=True, slots=True)
class ResetCounts:
    """What a reset ended: dialogs in which something was said, and their finished pairs."""

    dialogs: int
    pairs: int


@dataclass(frozen=True, slots=True)
class UndoneReset:
    """How many dialogs go on, and whether one that was begun since the reset was parked."""

    dialogs: int
    kept_since: bool


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the replies of a regenerated turn; `position` counts from 1."""

    position: int
    reply: str
    active: bool
    speaker: Speaker | None = None
