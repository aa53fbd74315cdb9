"""What people write, and why it is not taken: empty, too long, of characters that cannot be stored, files of no use."""

from __future__ import annotations

from collections.abc import Sequence

from bot.errors.base import BotError, Hint
from bot.i18n.language import NP_, pgettext
from bot.i18n.language import gettext as _

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


class FilesRefused(Hint):
    """A message of files only, none of which can be used. The lines say of each why; they have the files' names."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines), reason="none of the files of this message can be used")
        self._lines = tuple(lines)

    @property
    def lines(self) -> str:
        """The lines in the current language."""
        return "\n".join(_(line) for line in self._lines)
