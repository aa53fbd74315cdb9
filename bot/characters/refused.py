"""Why a file is not taken as a character card, in one sentence for the member. Pure."""

from __future__ import annotations

from bot.errors import Hint
from bot.i18n.language import gettext as _

MAX_CARD_BYTES = 4 << 20
"""Of a card's JSON, however it is packed: a lorebook of 10,000 entries has about 3 MiB."""


class CardRefused(Hint):
    """This file is no character card, or not one that can be taken."""


def too_large() -> CardRefused:
    """The card's own text is larger than any that is read."""
    text = _("This character card holds more than {size} MiB of text, and I read no more.")
    return CardRefused(text.format(size=MAX_CARD_BYTES >> 20))


def not_a_card(why: str = "") -> CardRefused:
    """The file holds no card at all."""
    text = _("This file is not a character card: {why}. I read cards as PNG, JSON and CHARX.")
    return CardRefused(text.format(why=why or _("I find no character in it")))
