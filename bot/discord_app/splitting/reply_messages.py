"""Which messages show a reply: the split text, the last one with a file where it is too long. Pure functions."""

from __future__ import annotations

from bot.discord_app.splitting.message_split import split_message
from bot.i18n.language import N_
from bot.i18n.language import gettext as _

MAX_MESSAGES = 5
"""More would flood a channel, and Discord allows some interactions only 5 follow-ups. The rest goes to a file."""
NO_ANSWER = N_("(no answer)")
REST_IN_FILE = N_("… The rest is in the attached file, which holds the whole answer.")


def partial_messages(text: str) -> tuple[str, ...]:
    """The messages of an unfinished reply, one fewer than MAX_MESSAGES at most: the last is kept for REST_IN_FILE."""
    return _visible_messages(text)[: MAX_MESSAGES - 1]


def final_messages(text: str, prefix: str = "") -> tuple[tuple[str, ...], str | None]:
    """The messages of a finished reply, and the whole text as a file if it takes more than MAX_MESSAGES.

    `prefix` stands above the text, and not in the file.
    """
    messages = _visible_messages(prefix + text if text.strip() else "")
    if not messages:
        return (_(NO_ANSWER),), None
    if len(messages) <= MAX_MESSAGES:
        return messages, None
    return (*messages[: MAX_MESSAGES - 1], _(REST_IN_FILE)), text


def _visible_messages(text: str) -> tuple[str, ...]:
    """The chunks of `text` without blank ones, which Discord refuses."""
    return tuple(chunk.text for chunk in split_message(text) if chunk.text.strip())
