"""What every error shown to a person has: one line for them, a reason for the log, and an id that connects the two."""

from __future__ import annotations

from uuid import uuid4

from bot.i18n.translated import english


class BotError(Exception):
    """An error that can be explained to the person who asked."""

    def __init__(self, user_message: str, *, reason: str = "") -> None:
        super().__init__(reason or english(user_message))
        self.user_message = user_message
        """In the language of the task; `gettext` tells it again in another one."""
        self.reason = reason
        self.error_id = uuid4().hex[:8]
        """Appears in the log, on the failed turn and in what the person is shown."""


class Hint(BotError):
    """Nothing has failed: what the person can do instead. It is shown without an error id, and nothing was stored."""
