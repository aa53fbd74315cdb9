"""What the messages of a finished reply say: its text, and a note on how it ended. Pure functions.

The notes are shown, not remembered.
"""

from __future__ import annotations

from bot.chat.chat_reply import ChatReply
from bot.chat.reply.generation import REPETITION
from bot.discord_app.replies.waiting_text import STOPPED
from bot.discord_app.splitting.reply_messages import final_messages
from bot.i18n.language import N_
from bot.i18n.language import gettext as _
from models.types import OutgoingMessage

NOT_SAVED = N_("-# I could not save this answer yet, so I may not remember it.")
REPEATED = N_("-# I noticed that I was repeating myself, so I stopped here.")
CUT_OFF = "length"
"""The finish reason of a reply that can be continued."""


def final_text(result: ChatReply) -> str:
    """The text of a reply as it is shown in the end."""
    text = with_note(result.text, result.finish_reason)
    if not result.saved:
        text = f"{text}\n\n{_(NOT_SAVED)}"
    if result.is_empty and result.finish_reason == "stopped":
        text = _(STOPPED)
    return text


def with_note(text: str, finish_reason: str) -> str:
    """The reply with a note on why it ended."""
    return f"{text.rstrip()}\n\n{_(REPEATED)}" if finish_reason == REPETITION and text.strip() else text


def outgoing_messages(text: str, prefix: str = "") -> tuple[OutgoingMessage, ...]:
    """The messages of a finished reply, to be recorded before they are sent. `prefix`: what stands above it."""
    messages, file = final_messages(text, prefix)
    return tuple(
        OutgoingMessage(message, with_file=file is not None and index == len(messages) - 1)
        for index, message in enumerate(messages)
    )
