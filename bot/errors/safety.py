"""What a guild keeps out: members whom an admin has blocked, and messages and replies with filtered words."""

from __future__ import annotations

from datetime import datetime

from bot.errors.base import Hint
from bot.i18n.language import gettext as _


class MemberIsBlocked(Hint):
    """An admin of the guild has blocked the member, until a moment or (None) for good.

    The message has the admin's reason, for the member alone; `public_message`, which others may see, has not.
    """

    def __init__(self, until: datetime | None, reason: str | None) -> None:
        self.public_message = _blocked_text(until)
        if reason is not None:
            self.public_message += "\n" + _("Use one of my commands to read the reason: only you will see it.")
        lines = [_blocked_text(until)]
        if reason is not None:
            lines.append(_("The reason they gave: {reason}").format(reason=" ".join(reason.split())))
        lines.append("-# " + _("`/privacy` and `/help` still work for you."))
        super().__init__("\n".join(lines), reason="an admin has blocked this member")


def _blocked_text(until: datetime | None) -> str:
    if until is None:
        return _("An admin of this guild has blocked you from chatting with me.")
    moment = f"<t:{int(until.timestamp())}:f>"
    return _("An admin of this guild has blocked you from chatting with me until {moment}.").format(moment=moment)


class MessageFiltered(Hint):
    """The message holds what its guild keeps out of conversations. Nothing was stored."""

    def __init__(self) -> None:
        super().__init__(
            _(
                "This guild keeps something out of our conversations that your message holds, so I have not answered "
                "it and kept nothing of it. Please say it in another way."
            )
        )


class MessageUnchecked(Hint):
    """The message cannot be checked now, and its guild wants no unchecked ones. Nothing was stored."""

    def __init__(self) -> None:
        super().__init__(
            _(
                "This guild has messages checked before I answer, and the check does not work right now. "
                "Please try again in a few minutes."
            )
        )


class ReplyFiltered(Hint):
    """What would have gone on with a reply holds what its guild keeps out. The reply stays as it was."""

    def __init__(self) -> None:
        super().__init__(
            _("What I would have gone on with holds something that this guild keeps out of our conversations.")
        )
