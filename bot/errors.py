"""Every error that the bot may show to a person, each with its one friendly line.

The use cases raise these; one place per front-end renders them. Details for the operator travel in `reason` and
belong in the log, never in the message. Knows nothing of Discord, SQL or HTTP.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

EXIT_CONFIG = 78
"""The exit code of a configuration error (sysexits.h: EX_CONFIG)."""


class BotError(Exception):
    """Something went wrong in a way that we can explain to the person who asked."""

    def __init__(self, user_message: str, *, reason: str = "") -> None:
        super().__init__(reason or user_message)
        self.user_message = user_message
        self.reason = reason
        self.error_id = uuid4().hex[:8]
        """Stands in the log, on the failed turn and in what the person is shown."""


class EmptyText(BotError):
    """Nothing was left of a text once characters that cannot be stored were taken out."""

    def __init__(self, what: str = "text") -> None:
        super().__init__(f"This {what} is empty. Please write something.")


class EmptyMessage(EmptyText):
    def __init__(self) -> None:
        super().__init__("message")


class NulCharacters(BotError):
    """Postgres cannot hold a NUL, and a text that was changed silently is not what its author wrote."""

    def __init__(self, what: str = "text") -> None:
        super().__init__(f"This {what} holds NUL characters, of which none are allowed. Please take them out.")


class TooLong(BotError):
    """A text over its limit; `limit` and `got` are in `unit`."""

    def __init__(self, what: str, limit: int, got: int, unit: str = "characters") -> None:
        super().__init__(f"This {what} is too long: {got:,} {unit}, and the limit is {limit:,}. Please shorten it.")
        self.limit = limit
        self.got = got
        self.unit = unit


class MessageTooLong(TooLong):
    def __init__(self, limit: int, got: int) -> None:
        super().__init__("message", limit, got)


class PersonaTooLong(TooLong):
    def __init__(self, limit: int, got: int, unit: str = "characters") -> None:
        super().__init__("persona", limit, got, unit)


class PromptTooLong(BotError):
    """Persona and message alone do not fit into the model's context, even with no history at all.

    The numbers are 0 where a foreign server refused the prompt without naming them.
    """

    def __init__(self, limit: int, got: int) -> None:
        numbers = f": {got:,} tokens, and there is room for {limit:,}" if limit and got else ""
        super().__init__(
            f"Your message and the persona together are too long for this model{numbers}. Please shorten one of them."
        )
        self.limit = limit
        self.got = got


class AboveLimit(BotError):
    """A guild chose more than the operator allows."""

    def __init__(self, setting: str, limit: int, got: int) -> None:
        super().__init__(
            f"`{setting}` can be {limit:,} at most, not {got:,}: that is what the owner of this bot allows. "
            "Nothing was changed."
        )
        self.limit = limit


class QuotaUsedUp(BotError):
    """The member has had all that the guild allows for one day."""

    def __init__(self, unit: str, limit: int, resets_at: datetime) -> None:
        allowed = f"{limit:,} {'message' if unit == 'turns' else 'token'}{'' if limit == 1 else 's'}"
        minutes = max(1, round((resets_at - datetime.now(UTC)).total_seconds() / 60))
        wait = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
        super().__init__(
            f"That was all for today: this guild allows you {allowed} a day. "
            f"Ask me again after {resets_at:%H:%M} UTC, which is in {wait}."
        )
        self.limit = limit
        self.resets_at = resets_at


class NothingToRegenerate(BotError):
    def __init__(self) -> None:
        super().__init__("There is no answer in our conversation that I could give anew.")


class Busy(BotError):
    """Too much is waiting already; nothing was stored."""

    def __init__(self, retry_after: float | None = None) -> None:
        when = "in a moment" if retry_after is None else f"in {max(1, round(retry_after))} s"
        super().__init__(f"I have a lot to answer right now. Please try again {when}.")
        self.retry_after = retry_after


class EngineUnavailable(BotError):
    """The model cannot answer now: not reachable, still loading, or it died during the reply."""

    def __init__(
        self,
        reason: str,
        user_message: str = "The model cannot be reached right now. Please try again in a moment.",
    ) -> None:
        super().__init__(user_message, reason=reason)


class EngineTimeout(EngineUnavailable):
    """No token came for REPLY_TIMEOUT seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"no token for {seconds:g} s", "The model took too long to answer. Please try again in a moment."
        )


class EngineRefused(EngineUnavailable):
    """The server answered, but not with a reply: a wrong key, an unknown model, a request it does not understand."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "The model refused this request. The owner of this bot finds the reason in its log.")


class DatabaseUnavailable(BotError):
    def __init__(self, reason: str) -> None:
        super().__init__("I cannot reach my memory right now. Please try again in a moment.", reason=reason)


class Duplicate(BotError):
    """This interaction is being answered already, by us or by another process."""

    def __init__(self) -> None:
        super().__init__("I am answering this one already.")


class ShuttingDown(BotError):
    def __init__(self) -> None:
        super().__init__("I am being restarted. Please ask again in a minute.")


class ConfigError(Exception):
    """A setting that cannot work. Rendered as one line; the process then exits with code 78."""

    def __init__(self, setting: str, problem: str, fix: str) -> None:
        self.setting = setting
        self.problem = problem
        self.fix = fix
        super().__init__(self.line)

    @property
    def line(self) -> str:
        text = " ".join(f"{self.setting}: {self.problem}".split()).rstrip(".")
        return f"{text}. {' '.join(self.fix.split())}".strip()
