"""What a member asks, by a command, a message or a button. Made by the entrances, answered by `conversation`.

Plain values: no object of discord.py travels on from here.
"""

from __future__ import annotations

from dataclasses import dataclass

from bot.attachments.types import OfferedFile
from bot.chat.requests import TurnKind
from bot.discord_app.caller import Caller
from models.types import FileKind, Place, StoredFile, TurnInfo


@dataclass(frozen=True, slots=True)
class Question:
    """What a member asks, and where the reply is to be shown.

    `turn` is the turn that a button or reaction belongs to: its reply is written anew, or with kind "new" the turn
    itself is replaced, with all later ones.
    """

    caller: Caller
    place: Place
    text: str = ""
    kind: TurnKind = "new"
    offers: tuple[OfferedFile, ...] = ()
    """Files that came with it, to be read before it is answered."""
    offers_kind: FileKind = "file"
    """ "quoted file" if they belong to the message that is asked about, of `offers_author_id`."""
    offers_author_id: int | None = None
    files: tuple[StoredFile, ...] = ()
    """Texts that are part of it already."""
    quote: bool = False
    """Whether the question stands above the reply: others do not see what was typed into a command."""
    turn: TurnInfo | None = None
    anew: bool = False
    """Whether messages above show an earlier reply to it that they cannot be rid of."""
    replied_to: int | None = None
    """The message that it is a reply to."""
    is_repeat: bool = False
    """Whether the same message was asked before, and its reply was given up because the message was edited."""
