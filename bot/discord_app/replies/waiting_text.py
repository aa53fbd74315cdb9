"""What a message says while it waits for its first token. Pure functions.

The time is rounded to what an estimate is worth.
"""

from __future__ import annotations

from bot.chat.queue.waiting import WaitStatus
from bot.i18n.language import N_, current_language, ngettext, pgettext
from bot.i18n.language import gettext as _
from bot.text import thought_for

STOPPED = N_("Stopped.")
"""What stands in place of a reply that was stopped before its first word."""
LOADING = N_("-# ⏳ The model is still loading. I answer as soon as it is ready.")
THINKING = N_("-# 💭 Thinking …")
_UNIT = 60.0


def waiting_text(status: WaitStatus | None, *, shared: bool = False, is_written: bool = False) -> str | None:
    """The line that is shown; None if the message waits no more. `shared`: whether others speak in this dialog too.

    `is_written`: whether the reply is being written and not shown before it is complete.
    """
    if status is None:
        return "-# " + _("✍️ I am writing …") if is_written else None
    if status.loading:
        return loading_text(status.load_progress)
    if status.thinking:
        return _(THINKING)
    parts = [_("{ordinal} in line").format(ordinal=ordinal(status.place))]
    if status.behind_own:
        parts.append(_("after the message before it") if shared else _("after your earlier message"))
    if status.seconds is not None:
        parts.append(about(status.seconds))
    return "-# ⏳ " + ", ".join(parts)


def loading_text(progress: str) -> str:
    """What a message says while the model loads; `progress`: how far it is, "" if that is not known."""
    if not progress:
        return _(LOADING)
    text = _("-# ⏳ The model is still loading ({progress}). I answer as soon as it is ready.")
    return text.format(progress=pgettext("loading", progress))


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st; in another language the number alone, its text says the rest."""
    if current_language() != "en":
        return str(number)
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def about(seconds: float) -> str:
    """A time in words: "a few seconds", "about 12 s", "about a minute", "about 4 minutes"."""
    if seconds < 4:
        return _("a few seconds")
    if seconds < 50:
        step = 2 if seconds < 20 else 5
        return _("about {seconds} s").format(seconds=round(seconds / step) * step)
    minutes = round(seconds / _UNIT)
    if minutes <= 1:
        return _("about a minute")
    if minutes > 15:
        return _("more than a quarter of an hour")
    return ngettext("about {number} minute", "about {number} minutes", minutes).format(number=minutes)


def thought_line(seconds: float | None) -> str:
    """What stands above an answer that the model thought about, with a line break; "" for less than a second."""
    words = thought_for(seconds)
    return f"-# 💭 {words[:1].upper()}{words[1:]}\n" if words else ""
