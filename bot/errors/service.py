"""Why the bot cannot serve a message now: too much to do, stopping, the database away, nothing to answer anew."""

from __future__ import annotations

from bot.errors.base import BotError
from bot.i18n.language import gettext as _


class NothingToRegenerate(BotError):
    """The open dialog has no finished turn."""

    def __init__(self) -> None:
        super().__init__(_("There is no answer in our conversation that I could give anew."))


class Busy(BotError):
    """Too many messages wait for a reply. `retry_after` is in seconds. Nothing was stored."""

    def __init__(self, retry_after: float | None = None) -> None:
        if retry_after is None:
            text = _("I have a lot to answer right now. Please try again in a moment.")
        else:
            text = _("I have a lot to answer right now. Please try again in {seconds} s.")
        super().__init__(text if retry_after is None else text.format(seconds=max(1, round(retry_after))))
        self.retry_after = retry_after


class DatabaseUnavailable(BotError):
    """The database cannot be used now, or the query failed."""

    def __init__(self, reason: str) -> None:
        super().__init__(_("I cannot reach my memory right now. Please try again in a moment."), reason=reason)


class Duplicate(BotError):
    """This interaction is already being answered, by this process or another one."""

    def __init__(self) -> None:
        super().__init__(_("I am answering this one already."))


class ReplyDeleted(BotError):
    """Ends a generation whose message was deleted."""

    def __init__(self) -> None:
        text = _("The message was deleted, so I stopped answering.")
        super().__init__(text, reason="the reply's message was deleted")


class ShuttingDown(BotError):
    """The bot is stopping and takes no new messages."""

    def __init__(self) -> None:
        super().__init__(_("I am being restarted. Please ask again in a minute."))
