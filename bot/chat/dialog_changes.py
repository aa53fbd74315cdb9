"""Changes to whole dialogs: a reset and its undo, and pairs that are forgotten.

A reset refuses the messages that wait for the dialog: they were meant for what it was before. Knows the queries; knows
neither the engine nor Discord.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from bot.chat.queue.refusal import WaitingMessages
from bot.errors import BotError
from bot.i18n.language import N_
from bot.i18n.language import gettext as _
from bot.storage import translate_database_errors
from models import queries
from models.database import Database
from models.queries.dialogs.resets import end_dialogs_everywhere
from models.types import DialogKey, UndoneReset

UNDO_WITHIN = timedelta(minutes=10)
"""How long a reset can be undone."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The result of a reset: how many non-empty dialogs it ended, and their pairs. `at` identifies it for an undo."""

    at: datetime
    dialogs: int
    pairs: int
    pairs_of: tuple[int, ...] = ()
    """The pairs of each dialog that was to be reset."""


def reset_error(*, shared: bool) -> Callable[[], BotError]:
    """The error for a message whose dialog was reset while it waited."""
    if shared:
        text = N_("This conversation was reset before I came to this message. Please ask again.")
    else:
        text = N_("You reset our conversation before I came to this message. Please ask again.")
    return lambda: BotError(_(text))


class DialogChanges:
    """Changes dialogs of any tenant; who may do so is decided by the caller."""

    def __init__(self, database: Database, waiting: WaitingMessages) -> None:
        self._database = database
        self._waiting = waiting

    async def reset(self, *keys: DialogKey) -> Reset:
        """End these dialogs, as one reset.

        A running reply is still shown, but not remembered; the messages that wait are refused.
        """
        for key in keys:
            self.refuse_waiting(key, reset_error(shared=key.shared))
        now = _now()

        async def work(session: Any) -> tuple[int, ...]:
            return tuple([await queries.end_dialog(session, key=key, now=now) for key in keys])

        with translate_database_errors():
            pairs = await self._database.run(work)
        return Reset(now, sum(1 for each in pairs if each), sum(pairs), pairs)

    async def reset_everywhere(self, user_id: int) -> Reset:
        """End all dialogs of this person's own, in every guild and in direct messages, as `reset` does."""
        self._waiting.refuse(lambda key: not key.shared and key.user_id == user_id, reset_error(shared=False))
        now = _now()
        with translate_database_errors():
            counts = await self._database.run(lambda session: end_dialogs_everywhere(session, user_id=user_id, now=now))
        return Reset(now, counts.dialogs, counts.pairs)

    async def undo_reset(
        self, key: DialogKey, reset_at: datetime | None = None, *, also: DialogKey | None = None
    ) -> UndoneReset | None:
        """Undo the reset made at this time, or the last one. None if it is too long ago, or if there is none.

        `also`: another dialog of the member's that it may have ended. What was begun since is kept as a conversation
        of its own.
        """
        now = _now()
        with translate_database_errors():
            return await self._database.run(
                lambda session: queries.undo_reset(
                    session, key=key, also=also, since=now - UNDO_WITHIN, reset_at=reset_at, now=now
                )
            )

    def refuse_waiting(self, key: DialogKey, error: Callable[[], BotError]) -> None:
        """Refuse the messages of this dialog that wait for an earlier reply: they were meant for what it was before."""
        self._waiting.refuse(lambda dialog: dialog == key.dialog, error)

    def refuse_waiting_where(self, applies: Callable[[DialogKey], bool], error: Callable[[], BotError]) -> None:
        """Refuse the messages that wait for the dialogs to which this applies."""
        self._waiting.refuse(applies, error)

    async def forget(self, key: DialogKey, count: int, *, own_only: bool = False) -> int:
        """Delete at most the last `count` pairs of the open dialog, and return how many were deleted.

        `own_only`: of a shared dialog, those that the member asked for.
        """
        with translate_database_errors():
            return await self._database.run(
                lambda session: queries.forget_last(session, key=key, count=count, own_only=own_only)
            )


def _now() -> datetime:
    return datetime.now(UTC)
