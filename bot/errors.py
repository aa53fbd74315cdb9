"""Every error that the bot may show to a person, each with its message of one line.

The use cases raise these, and each front-end renders them in one place. `reason` has the details for the operator: it
goes to the log, never into the message. Knows nothing of Discord, SQL or HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import uuid4

from bot.i18n.language import NP_, ngettext, pgettext
from bot.i18n.language import gettext as _
from bot.i18n.translated import english

LimitedBy = Literal["member", "guild"]
"""Whose limit it is: a member's own, or that of all members of a guild together."""
EXIT_CONFIG = 78
"""The exit code of a configuration error (sysexits.h: EX_CONFIG)."""


THINGS = frozenset(
    {
        NP_("thing", "text"),
        NP_("thing", "message"),
        NP_("thing", "persona"),
        NP_("thing", "name"),
        NP_("thing", "tag"),
        NP_("thing", "search"),
        NP_("thing", "note"),
    }
)
"""What a text can be that somebody wrote, as these errors name it."""


def _thing(what: str) -> str:
    return pgettext("thing", what)


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


class FilesRefused(Hint):
    """A message of files only, none of which can be used. The lines say of each why; they have the files' names."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines), reason="none of the files of this message can be used")
        self._lines = tuple(lines)

    @property
    def lines(self) -> str:
        """The lines in the current language."""
        return "\n".join(_(line) for line in self._lines)


class EmptyText(BotError):
    """A text has no characters, or none that can be stored."""

    def __init__(self, what: str = "text") -> None:
        super().__init__(_("This {what} is empty. Please write something.").format(what=_thing(what)))


class EmptyMessage(EmptyText):
    """The message to answer is empty."""

    def __init__(self) -> None:
        super().__init__("message")


class NulCharacters(BotError):
    """Postgres cannot store NUL, and removing it silently would change what the author wrote."""

    def __init__(self, what: str = "text") -> None:
        text = _("This {what} holds NUL characters, of which none are allowed. Please take them out.")
        super().__init__(text.format(what=_thing(what)))


class TooLong(BotError):
    """A text over its limit; `limit` and `got` are in `unit`."""

    def __init__(self, what: str, limit: int, got: int, unit: str = "characters") -> None:
        if unit == "tokens":
            text = _("This {what} is too long: {got:,} tokens, and the limit is {limit:,}. Please shorten it.")
        else:
            text = _("This {what} is too long: {got:,} characters, and the limit is {limit:,}. Please shorten it.")
        super().__init__(text.format(what=_thing(what), got=got, limit=limit))
        self.limit = limit
        self.got = got
        self.unit = unit


class MessageTooLong(TooLong):
    """The message has more characters than the operator allows."""

    def __init__(self, limit: int, got: int) -> None:
        super().__init__("message", limit, got)


class PersonaTooLong(TooLong):
    """The persona has more characters than the operator allows, or takes too much of the model's context."""

    def __init__(self, limit: int, got: int, unit: str = "characters") -> None:
        super().__init__("persona", limit, got, unit)


class UnknownPersona(BotError):
    """The library has no persona of this name."""

    def __init__(self, name: str, command: str) -> None:
        text = _("There is no persona “{name}” here. `{command} list` shows which there are.")
        super().__init__(text.format(name=name, command=command))


class PersonaExists(BotError):
    """The library has a persona of this name, or of one that looks like it."""

    def __init__(self, name: str, command: str, *, hint: str = "") -> None:
        hint = hint or _("`{command} edit` changes it.").format(command=command)
        super().__init__(_("There is a persona “{name}” already. {hint}").format(name=name, hint=hint))


class TooManyPersonas(BotError):
    """The library is full."""

    def __init__(self, limit: int, command: str) -> None:
        text = _("There is room for {limit:,} personas. `{command} delete` makes some.")
        super().__init__(text.format(limit=limit, command=command))


class PromptTooLong(BotError):
    """Persona and message do not fit into the model's context, even without history.

    `limit` and `got` are in tokens; 0 if the server refused the prompt without naming them.
    """

    def __init__(self, limit: int, got: int) -> None:
        if limit and got:
            text = _(
                "Your message and the persona together are too long for this model: {got:,} tokens, and there is room "
                "for {limit:,}. Please shorten one of them."
            ).format(got=got, limit=limit)
        else:
            text = _("Your message and the persona together are too long for this model. Please shorten one of them.")
        super().__init__(text)
        self.limit = limit
        self.got = got


class AboveLimit(BotError):
    """A guild chose a value above the operator's limit."""

    def __init__(self, setting: str, limit: int, got: int) -> None:
        super().__init__(
            _(
                "`{setting}` can be {limit:,} at most, not {got:,}: that is what the owner of this bot allows. "
                "Nothing was changed."
            ).format(setting=setting, limit=limit, got=got)
        )
        self.limit = limit


class LimitReached(Hint):
    """A member, or a guild as a whole (`by`), has asked for as much as it may for now. Nothing was stored."""

    def __init__(self, user_message: str, by: LimitedBy, returns_at: datetime) -> None:
        super().__init__(user_message)
        self.by: LimitedBy = by
        self.returns_at = returns_at


class TooManyMessages(LimitReached):
    """More messages came than may come in a minute."""

    def __init__(self, limit: int, by: LimitedBy, returns_at: datetime) -> None:
        if by == "member":
            text = ngettext(
                "That was fast! Here you can send me {number} message a minute. Ask me again {when}.",
                "That was fast! Here you can send me {number} messages a minute. Ask me again {when}.",
                limit,
            )
        else:
            text = ngettext(
                "Everybody is asking me at once: in this guild I take {number} message a minute. Ask me again {when}.",
                "Everybody is asking me at once: in this guild I take {number} messages a minute. Ask me again {when}.",
                limit,
            )
        message = text.format(number=f"{limit:,}", when=relative_time(returns_at))
        super().__init__(message, by, returns_at)
        self.limit = limit


class QuotaUsedUp(LimitReached):
    """A daily quota is used up. `unit` is "turns" or "tokens"."""

    def __init__(self, unit: str, limit: int, resets_at: datetime, *, by: LimitedBy = "member") -> None:
        if by == "guild" and unit == "turns":
            text = ngettext(
                "That was all for today: all members of this guild together have {number} message a day. "
                "Ask me again after {time} UTC, {when}.",
                "That was all for today: all members of this guild together have {number} messages a day. "
                "Ask me again after {time} UTC, {when}.",
                limit,
            )
        elif by == "guild":
            text = ngettext(
                "That was all for today: all members of this guild together have {number} token a day. "
                "Ask me again after {time} UTC, {when}.",
                "That was all for today: all members of this guild together have {number} tokens a day. "
                "Ask me again after {time} UTC, {when}.",
                limit,
            )
        elif unit == "turns":
            text = ngettext(
                "That was all for today: here you have {number} message a day. Ask me again after {time} UTC, {when}.",
                "That was all for today: here you have {number} messages a day. Ask me again after {time} UTC, {when}.",
                limit,
            )
        else:
            text = ngettext(
                "That was all for today: here you have {number} token a day. Ask me again after {time} UTC, {when}.",
                "That was all for today: here you have {number} tokens a day. Ask me again after {time} UTC, {when}.",
                limit,
            )
        message = text.format(number=f"{limit:,}", time=f"{resets_at:%H:%M}", when=relative_time(resets_at))
        super().__init__(message, by, resets_at)
        self.limit = limit
        self.resets_at = resets_at


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


def relative_time(moment: datetime) -> str:
    """A moment as Discord shows it to each reader: "in 12 seconds". Rounded up, so that it is not too early."""
    return f"<t:{math.ceil(moment.timestamp())}:R>"


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


class DatabaseUnavailable(BotError):
    """The database cannot be used now, or the query failed."""

    def __init__(self, reason: str) -> None:
        super().__init__(_("I cannot reach my memory right now. Please try again in a moment."), reason=reason)


class Duplicate(BotError):
    """This interaction is already being answered, by this process or another one."""

    def __init__(self) -> None:
        super().__init__(_("I am answering this one already."))


class ShuttingDown(BotError):
    """The bot is stopping and takes no new messages."""

    def __init__(self) -> None:
        super().__init__(_("I am being restarted. Please ask again in a minute."))


class ConfigError(Exception):
    """A setting that cannot work. The command prints `line` and exits with code 78."""

    def __init__(self, setting: str, problem: str, fix: str) -> None:
        self.setting = setting
        self.problem = problem
        self.fix = fix
        super().__init__(self.line)

    @property
    def line(self) -> str:
        """The setting, the problem and the fix, as one line."""
        text = " ".join(f"{self.setting}: {self.problem}".split()).rstrip(".")
        return f"{text}. {' '.join(self.fix.split())}".strip()
