"""Where a reply is shown, and which of its messages are."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from models.types.keys import DIRECT_MESSAGES

DeliveryState = Literal["writing", "ready", "done"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reply is shown: as the response to an interaction, or as a reply to a message in a channel."""

    guild_id: int
    channel_id: int
    """0 where the bot itself is not: only an interaction's token reaches such a place."""
    asker_id: int
    nonce: int
    """The interaction or message that asked for it, which makes a message that is sent twice appear once."""
    ephemeral: bool = False
    application_id: int | None = None
    reply_token: str | None = None
    """The token of the interaction; None for a reply to a message."""
    token_expires_at: datetime | None = None
    question_id: int | None = None
    """The message that is replied to."""
    about_id: int | None = None
    """The message of someone else that was asked about."""
    message_ids: tuple[int | None, ...] = ()
    """The messages that show an earlier text, to be edited."""
    may_send: bool = True
    """Whether the bot may write in the channel, as far as Discord has said. Not stored."""
    path: str = ""
    """Guild and channel as a link names them; not stored."""
    webhook_id: int | None = None
    """The webhook through which a persona speaks; None for messages of the bot itself."""
    webhook_name: str = field(default="", repr=False)
    """The name under which it speaks there; "" before its first message."""
    asker_name: str = field(default="", repr=False)
    """How the asker is called here, where that is known; not stored."""

    @property
    def by_token_only(self) -> bool:
        """Whether the bot can change its messages here only through the token of the interaction that made them."""
        return self.ephemeral or self.channel_id == 0

    @property
    def is_seen_by_others(self) -> bool:
        """Whether a response to a command is shown to people who did not see the command."""
        return (
            self.question_id is None
            and not self.ephemeral
            and (self.guild_id != DIRECT_MESSAGES or not self.channel_id)
        )


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """One Discord message of a reply. `text` is "" for a message that is not needed any more and is to be deleted."""

    text: str
    with_file: bool = False
    message_id: int | None = None
    shown: bool = False


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """A delivery as it is stored: where, and which of its messages exist or are still to be shown."""

    delivery_id: int
    turn_id: int | None
    """None for a message that waits for its turn, and for messages whose turn was forgotten."""
    state: DeliveryState
    place: Place
    messages: tuple[OutgoingMessage, ...]
    created_at: datetime
    owner: str | None = None
