"""What a front-end asks of a chat, and the turn that is begun for it. Plain values; knows no Discord and no SQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from bot.attachments.types import ImageInput, OfferedFile
from bot.chat.queue.waiting import Waiting
from bot.safety.content import ContentFilter
from models.types import (
    NO_PLACE,
    DialogKey,
    DialogSettings,
    FileKind,
    MemoryFact,
    OutgoingMessage,
    Pair,
    PersonaScope,
    PersonaText,
    Place,
    ReplyLimits,
    SceneInfo,
    Speaker,
    StoredFile,
    Summary,
)

TurnKind = Literal["new", "regenerate", "continue"]
Messages = Callable[[str, Speaker | None], tuple[OutgoingMessage, ...]]
"""Splits a reply into the Discord messages that show it, below the name of who gave it."""
ReplyMessages = Callable[[str, str], tuple[OutgoingMessage, ...]]
"""The same for a new reply, of its text and its finish reason."""


def no_messages(_text: str, _finish_reason: str) -> tuple[OutgoingMessage, ...]:
    """How a reply is shown where nothing of it is recorded: the terminal."""
    return ()


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One message, or the wish for another reply to an earlier one (`text` is then ignored)."""

    key: DialogKey
    text: str
    interaction_id: int | None = None
    """The interaction or message that asked: a second event with this id is ignored."""
    model: str | None = None
    """The name of the model that the guild has chosen; None: the default one."""
    limits: ReplyLimits | None = None
    """What the member and the guild may ask for; None: only what the guild has stored for a day."""
    content_filter: ContentFilter | None = None
    """What the guild keeps out of the message and its reply."""
    is_repeat: bool = False
    """Whether the same message was asked before and changed since: it counts, and no limit of a minute refuses it."""
    author: str | None = None
    """The name that the model reads, in a shared dialog."""
    name: str = ""
    """How the member is called here: what `{{user}}` stands for in a persona."""
    persona_scope: PersonaScope = NO_PLACE
    """Where it was written, which decides who answers."""
    offers: tuple[OfferedFile, ...] = ()
    """The files of the message, still to be read. What they hold is then in `files`, `images` and `files_note`."""
    offers_kind: FileKind = "file"
    """ "quoted file" if the offers belong to the message that is asked about, of `offers_author_id`."""
    offers_author_id: int | None = None
    reads_files: bool = True
    """Whether the guild has files read at all."""
    files: tuple[StoredFile, ...] = ()
    images: tuple[ImageInput, ...] = ()
    """The pictures of the message: for this prompt only, they are not stored."""
    files_note: str = ""
    """What the member is told of the files, above the reply: plain lines."""
    retraction: str = ""
    """The text that replaces the messages of turns which this one replaces."""
    place: Place | None = None
    """Where the reply is shown; None if that is not recorded, or for another reply: where the present one is."""
    messages: ReplyMessages = no_messages
    on_begun: Callable[[PendingTurn], None] = lambda turn: None
    """Called once the turn is stored, before its reply is generated."""
    on_waiting: Callable[[Waiting], None] = lambda waiting: None
    """Called once the message is admitted: it tells how long the first token may take."""
    on_thought: Callable[[float | None], None] = lambda seconds: None
    """Called with the seconds of thinking before the answer begins; None if members are not shown them. Pieces
    that were passed on before that were thoughts as well."""
    in_place: bool = False
    """Whether another reply to a turn is shown in the messages that show the present one. `place` is then the way to
    reach them."""
    turn_id: int | None = None
    """The turn to regenerate or to continue; for a new message, the turn which it replaces with all later ones."""
    replied_to: int | None = None
    """The message on Discord that this one is a reply to."""


@dataclass(frozen=True, slots=True)
class PendingTurn:
    """A turn that waits for a reply: everything that its prompt is built from."""

    key: DialogKey
    kind: TurnKind
    turn_id: int
    dialog_id: int
    text: str
    persona: PersonaText | None
    history: Sequence[Pair]
    settings: DialogSettings
    messages: ReplyMessages
    author: str | None = None
    files: tuple[StoredFile, ...] = ()
    images: tuple[ImageInput, ...] = ()
    files_note: str = ""
    name: str = ""
    greeting: str = ""
    """What a character says before its first reply; the reply is stored with it."""
    reply: str = ""
    """The reply so far, of a turn that has one already. It is kept unless another one is stored."""
    delivery_id: int = 0
    retraction: str = ""
    summary: Summary | None = None
    """Of what the history does not contain any more."""
    facts: tuple[MemoryFact, ...] = ()
    """What is remembered about the author, the newest first."""
    speaker: Speaker | None = None
    """Who gives the reply, where the name stands above it; of a reply that is continued, who gave its beginning. In a
    scene, until the character is chosen: who answered before the reply was written anew, or the message changed."""
    scene: SceneInfo | None = None
    """The characters of whom one answers: see `bot.chat.scenes`."""
    addressed: Speaker | None = None
    """In a scene, who said what this message is a reply to."""
    counts_usage: bool = False
    """Whether what it uses is counted even if nothing else of it is stored."""

    @property
    def is_new(self) -> bool:
        """Whether the turn is pending; the others are finished ones, whose reply changes."""
        return self.kind == "new"

    @property
    def prefix(self) -> str:
        """The reply that is continued; "" for any other one."""
        return self.reply if self.kind == "continue" else ""
