"""What the preview of a card says and offers, in Discord's Markdown and JSON. Pure functions.

All that a card wrote is shown as typed and has no effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from discord.utils import escape_markdown, escape_mentions

from bot.characters.card import MAX_GREETINGS
from bot.characters.files.reading import ImportedCard
from bot.characters.macros import Macros, expand
from bot.characters.preview import Preview
from bot.cogs.cards.pending import PendingCard
from bot.cogs.dialogs.buttons import button, row
from bot.discord_app.permissions.actions import Action
from bot.discord_app.splitting.code_fences import utf16_length
from bot.errors import BotError
from bot.guilds.persona_checks import PersonaSize
from bot.i18n.language import N_
from bot.i18n.language import gettext as _

CANCELLED = N_("I have not imported this card.")
TOO_LATE = N_(
    "I no longer have this card: too much time has passed, or I was restarted. Please use the command or menu again."
)
_MAX_NOTES = 500
_MAX_GREETING = 1_200
_MAX_LINES = 6
_MAX_OPTIONS = 25  # Discord's limit
_MAX_LABEL = 100  # Discord's limit
_PRIMARY = 1
_MAX_PART = 700
_MAX_TEXT = 1_650
"""UTF-16 units: Discord takes 2,000, and the reason why a card was not imported stands below."""


def preview_text(imported: ImportedCard, shown: Preview, size: PersonaSize | None, refusal: BotError | None) -> str:
    """The whole preview; what a card says of itself is cut shorter, until there is room for all parts."""
    for share in (1, 2, 4, 8):
        text = _preview_text(imported, shown, size, refusal, share)
        if utf16_length(text) <= _MAX_TEXT:
            break
    return text


def _preview_text(
    imported: ImportedCard, shown: Preview, size: PersonaSize | None, refusal: BotError | None, share: int
) -> str:
    card = imported.card
    title = _("**{name}** · character card of version {version}, {packing}")
    if shown.creator:
        title = _("**{name}** · character card of version {version}, {packing} by {creator}")
    lines: list[str] = [
        title.format(
            name=plain(shown.name), version=card.version, packing=imported.packing, creator=plain(shown.creator, 80)
        )
    ]
    if refusal is not None:
        lines.append(_("**It does not fit:** {why}").format(why=refusal.user_message))
    elif size is None:
        lines.append(_("I cannot count its tokens now; the first message will show whether it fits."))
    else:
        fits = _("**It fits:** {number:,} tokens in every prompt, {percent} % of the context.")
        lines.append(fits.format(number=size.tokens, percent=size.percent))
    if card.is_age_restricted:
        lines.append(_("**Age-restricted**, as its tags say: it answers only in age-restricted channels."))
    if shown.notes:
        lines += [_("**The creator says:**"), _quoted(shown.notes, _MAX_NOTES // share)]
    num_greetings = sum(bool(text) for text in card.greetings)
    if num_greetings > 1:
        choice = _("**Conversations begin with** one of its {number} greetings: choose it below.")
        lines.append(choice.format(number=num_greetings))
    lines += _part(_("**Used:** {list}"), shown.used, _MAX_PART // share)
    lines += _part(_("**Kept for an export:** {list}"), shown.kept, _MAX_PART // share)
    lines += _part(_("**Not used:** {list}"), shown.ignored, _MAX_PART // share)
    return "\n".join(lines)


def preview_components(pending: PendingCard, number: int, *, fits: bool) -> list[dict[str, Any]]:
    """The choice of a greeting, where there are several, and the buttons."""
    rows: list[dict[str, Any]] = []
    if fits:
        macros = Macros(pending.char, pending.user)
        rows = greeting_rows(pending.greetings, pending.greeting, macros, f"{Action.CARD.value}:greeting:{number}")
    buttons = []
    if fits and pending.guild:
        label = _("Import for this guild") if pending.own else _("Import")
        buttons.append({**button(label, f"{Action.GUILD_CARD.value}:import:{number}"), "style": _PRIMARY})
    if fits and pending.own:
        label = _("Import for me") if pending.guild else _("Import")
        buttons.append({**button(label, f"{Action.CARD.value}:import:{number}"), "style": _PRIMARY})
    buttons.append(button(_("Cancel"), f"{Action.CARD.value}:cancel:{number}"))
    return [*rows, *row(*buttons)]


def imported_text(name: str, *, own: bool) -> str:
    """What became of an import, and what to do next."""
    if own:
        text = _("**{name}** is among your own personas here. `{command}` lets it answer.")
    else:
        text = _("**{name}** is among the personas of this guild. `{command}` lets it answer.")
    command = "/me persona set" if own else "/persona set"
    return text.format(name=plain(name), command=f"{command} name:{name.replace('`', '')}")


def plain(text: str, limit: int = 80) -> str:
    """A text on one line, as typed, with its end cut off."""
    line = " ".join(text.split())
    return escape_mentions(escape_markdown(line if len(line) <= limit else f"{line[: limit - 1].rstrip()}…"))


def _quoted(text: str, limit: int) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    short = "\n".join(lines[:_MAX_LINES])
    cut = len(short) > limit or len(lines) > _MAX_LINES
    short = short[:limit].rstrip() + (" …" if cut else "")
    return "\n".join(f"> {line}" for line in escape_mentions(escape_markdown(short)).splitlines())


def _part(text: str, lines: Sequence[str], limit: int) -> list[str]:
    return [text.format(list=plain("; ".join(lines), limit))] if lines else []


def greeting_rows(greetings: Sequence[str], chosen: int, macros: Macros, custom_id: str) -> list[dict[str, Any]]:
    """A choice among greetings, in as many menus as their number needs; none where there is nothing to choose.

    The custom ids after the first one end with the number of their menu.
    """
    offered = [(index, text) for index, text in enumerate(greetings[:MAX_GREETINGS]) if text.strip()]
    if len(offered) < 2:
        return []
    options = [
        {
            "label": _label(text, macros),
            "value": str(index),
            "description": _("Greeting {number} of {total}").format(number=place, total=len(offered)),
            "default": index == chosen,
        }
        for place, (index, text) in enumerate(offered, 1)
    ]
    menus = [options[start : start + _MAX_OPTIONS] for start in range(0, len(options), _MAX_OPTIONS)]
    return [
        {
            "type": 1,
            "components": [
                {
                    "type": 3,
                    "custom_id": f"{custom_id}:{menu}" if menu else custom_id,
                    "placeholder": _("How conversations begin"),
                    "options": part,
                }
            ],
        }
        for menu, part in enumerate(menus)
    ]


def greeting_text(name: str, greeting: str, macros: Macros, *, stored: bool) -> str:
    """How conversations with a character begin. `stored`: just chosen, so that it is said from when on."""
    shown = _quoted(expand(greeting, macros) or _("(nothing)"), _MAX_GREETING)
    text = _("Conversations with **{name}** begin with:")
    if stored:
        text = _("From now on, new conversations with **{name}** begin with:")
    return f"{text.format(name=plain(name))}\n{shown}"


def _label(text: str, macros: Macros) -> str:
    """The beginning of a greeting, as the member who looks at it would be greeted."""
    shown = expand(text, macros) or _("(nothing)")
    line = " ".join(shown.split()) or _("(nothing)")
    return line if len(line) <= _MAX_LABEL else f"{line[: _MAX_LABEL - 1].rstrip()}…"
