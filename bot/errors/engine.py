"""Why the model gives no reply: it cannot be reached, takes too long, or refuses the request."""

from __future__ import annotations

from bot.errors.base import BotError
from bot.i18n.language import gettext as _


class EngineUnavailable(BotError):
    """The engine cannot be reached, is still loading, or died during the reply."""

    def __init__(self, reason: str, user_message: str = "") -> None:
        super().__init__(
            user_message or _("The model cannot be reached right now. Please try again in a moment."), reason=reason
        )


class EngineTimeout(EngineUnavailable):
    """No token came for REPLY_TIMEOUT seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"no token for {seconds:g} s", _("The model took too long to answer. Please try again in a moment.")
        )


class EngineRefused(EngineUnavailable):
    """The server rejected the request: a wrong key, an unknown model, or a request it does not understand."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            reason, _("The model refused this request. The owner of this bot finds the reason in its log.")
        )


class ImagesNotSeen(EngineRefused):
    """The prompt has pictures, and the model takes only text."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.user_message = _("The model that I use here sees no pictures. Please describe them in words.")


class EngineUnreadable(EngineRefused):
    """What the server sent is not of the protocol: not JSON, of another shape, or beyond every bound."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.user_message = _(
            "The model's server sent something I cannot read. The owner of this bot finds the reason in its log."
        )
