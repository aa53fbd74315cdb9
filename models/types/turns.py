"""A turn on its way: what its prompt is built from, and what is stored of its reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.types.deliveries import OutgoingMessage
from models.types.dialogs import Pair, Speaker, StoredFile
from models.types.keys import DialogKey
from models.types.memory import MemoryFact, Summary
from models.types.personas import PersonaText, SceneInfo
from models.types.prompts import PromptRecord
from models.types.settings import NO_SETTINGS, DialogSettings

TurnStatus = Literal["pending", "done", "failed", "interrupted"]


@dataclass(frozen=True, slots=True)
class TurnSnapshot:
    """A turn that needs a reply, and everything its prompt is built from, as one transaction read it.

    `turn_id` and `dialog_id` are 0 for a member who opted out: the turn is not stored, nor will its reply be.
    """

    turn_id: int
    dialog_id: int
    text: str
    persona: PersonaText | None
    history: tuple[Pair, ...]
    settings: DialogSettings = NO_SETTINGS
    author: str | None = None
    files: tuple[StoredFile, ...] = ()
    files_note: str = ""
    """What the member is told of the files, above the reply: plain lines."""
    reply: str | None = None
    """The present reply, if the turn has one already."""
    delivery_id: int = 0
    """0 if what is shown is not recorded."""
    summary: Summary | None = None
    """Of what the history does not contain any more, if the dialog has one."""
    facts: tuple[MemoryFact, ...] = ()
    """What is remembered about the author, the newest first."""
    speaker: Speaker | None = None
    """Which persona gave the present reply, or that of the turn which this one replaces."""
    scene: SceneInfo | None = None
    """The characters of whom one answers instead of the persona."""
    profile_id: int | None = None
    """The persona that the bot's own profile in the guild shows, where the guild wants that."""
    addressed: Speaker | None = None
    """In a scene, who gave the reply that this message is a reply to."""


@dataclass(frozen=True, slots=True)
class TurnResult:
    """A generated reply, as the finish transaction stores it. Times in milliseconds since the request.

    `messages` is how it is shown on Discord, to be sent after the commit.
    """

    reply: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    first_token_ms: int
    total_ms: int
    messages: tuple[OutgoingMessage, ...] = ()
    retraction: str = ""
    """The text that replaces the messages of turns which this one replaces."""
    prompt: PromptRecord | None = None
    """What the prompt was made of."""
    speaker: Speaker | None = None
    """Which persona gave the reply, where its name stands above it."""
    model: str | None = None
    """Which model wrote it, as its server calls it."""
    counts_usage: bool = False
    """Whether the usage of a member who opted out is counted as well, because a day has limits."""


@dataclass(frozen=True, slots=True)
class TurnInfo:
    """A turn as a button under its reply finds it. `key` acts as the turn's author; `is_open`: its dialog goes on."""

    turn_id: int
    key: DialogKey
    author_id: int | None
    status: TurnStatus
    user_text: str
    reply: str | None
    finish_reason: str | None
    is_open: bool
    num_later: int
    """Finished turns of the dialog after this one."""
    is_parked: bool = False
    """The dialog is another one of the key's conversations than that in use."""
    position: int = 1
    """Which of the turn's replies is the active one, from 1."""
    num_variants: int = 1
    files_note: str = ""
    """What the member is told of the turn's files, above the reply: plain lines."""
    replaces_id: int | None = None
    """The turn that this one replaces once its reply is stored."""
    speaker: Speaker | None = None
    """Which persona gave the reply, where its name stands above it."""
