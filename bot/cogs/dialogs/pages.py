"""Pages of a conversation and of search results, as text. Pure functions.

An exchange that is longer than a page goes on on the next one: a page is a run of parts, and a place in a conversation
is a turn and one of its parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import discord

from bot.discord_app.splitting.code_fences import fence_after, utf16_length
from bot.discord_app.splitting.message_split import split_message
from bot.guilds.export import quoted
from bot.i18n.language import N_
from bot.i18n.language import gettext as _
from models.types import DialogHead, Exchange, StoredFile

PAGE_CHARS = 1_800
"""UTF-16 units of a page; the rest of Discord's 2,000 is for the line below it."""
RESULTS = 8
"""Results of a search on one page, if there is room for them."""
_BEFORE, _AFTER = 40, 80  # characters of an excerpt around what was found
_UNNAMED = N_("Member")
_BLOCK = re.compile(r"\s{0,3}(`{3}|~{3}|#|>|[-*+] |\d+[.)] )")
"""The beginning of a code block, heading, quote or list, which Markdown sees at the beginning of a line only."""


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in a conversation: a turn, and one of the parts that its text takes."""

    turn_id: int
    part: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """One page: its text, its first and last part, and how many parts the last one's exchange has."""

    text: str
    first: Mark
    last: Mark
    num_turns: int
    ends_turn: bool
    """Whether the last exchange ends on this page."""


def page_before(exchanges: Sequence[Exchange], mark: Mark | None) -> Page | None:
    """The fullest page that ends right before a place, or at the end. None if nothing is before it."""
    parts = [part for part in _parts(exchanges) if mark is None or part[0] < mark]
    length, start = 0, len(parts)
    while start and (start == len(parts) or length + utf16_length(parts[start - 1][1]) + 2 <= PAGE_CHARS):
        start -= 1
        length += utf16_length(parts[start][1]) + 2
    return _page(parts[start:], exchanges)


def page_after(exchanges: Sequence[Exchange], mark: Mark) -> Page | None:
    """The fullest page that begins right after a place. None if nothing is after it."""
    parts = [part for part in _parts(exchanges) if part[0] > mark]
    length, end = 0, 0
    while end < len(parts) and (end == 0 or length + utf16_length(parts[end][1]) + 2 <= PAGE_CHARS):
        length += utf16_length(parts[end][1]) + 2
        end += 1
    return _page(parts[:end], exchanges)


def exchange_text(exchange: Exchange) -> str:
    """One exchange as it stands on a page."""
    said = exchange.user
    who = _("You")
    if exchange.author is not None:
        who = discord.utils.escape_markdown(exchange.author)
        # Shown as typed: a text of someone else cannot look like what another member said.
        said = discord.utils.escape_markdown(said)
    elif not exchange.own:
        who = _(_UNNAMED)
    files = "".join(f"\n-# {file_label(file)}" for file in exchange.files)
    return f"**{who}:**{_body(said)}{files}\n**{_('Me')}:**{_body(exchange.reply)}"


def file_label(file: StoredFile) -> str:
    """What came with a message: a file by its name, or who wrote the message that was asked about."""
    name = discord.utils.escape_markdown(_line(file.name))
    if file.kind == "quoted file":
        return _("file of the message: {name}").format(name=name)
    if file.kind == "quote":
        if file.author_id is None:
            return _("about a message of mine")
        return _("about a message by {name}").format(name=name)
    return name


def _body(text: str) -> str:
    """A text after the name of who said it: on a line of its own if it begins a block, and with its code closed."""
    fence = fence_after(text, None)
    closed = text + fence.closing(text) if fence else text
    return ("\n" if _BLOCK.match(closed) else " ") + closed


def _parts(exchanges: Sequence[Exchange]) -> list[tuple[Mark, str]]:
    return [
        (Mark(exchange.turn_id, number), chunk.text)
        for exchange in exchanges
        for number, chunk in enumerate(split_message(exchange_text(exchange), PAGE_CHARS))
    ]


def _page(parts: Sequence[tuple[Mark, str]], exchanges: Sequence[Exchange]) -> Page | None:
    if not parts:
        return None
    first, last = parts[0][0], parts[-1][0]
    last_exchange = next(each for each in exchanges if each.turn_id == last.turn_id)
    num_parts = len(split_message(exchange_text(last_exchange), PAGE_CHARS))
    turns = {mark.turn_id for mark, _ in parts}
    return Page("\n\n".join(text for _, text in parts), first, last, len(turns), last.part == num_parts - 1)


def result_line(
    exchange: Exchange, wanted: str, dialog: DialogHead | None, current_id: int | None, private_id: int | None = None
) -> str:
    """One result of a search: when, in which conversation, and an excerpt around what was found."""
    asker = _("You") if exchange.own else exchange.author or _(_UNNAMED)
    texts = [(asker, exchange.user), (_("Me"), exchange.reply)]
    texts += [(_("About a message by") if file.kind == "quote" else _("File"), file.name) for file in exchange.files]
    found = [(who, text, _position(text, wanted)) for who, text in texts]
    who, text, position = next((each for each in found if each[2] is not None), (*texts[0], None))
    where = ""
    if dialog is not None and dialog.dialog_id == private_id:
        where = " · " + _("in our private conversation here")
    elif dialog is not None and dialog.dialog_id != current_id and dialog.name is None:
        where = " · " + (_("in an ended conversation") if dialog.ended else _("in another conversation"))
    elif dialog is not None and dialog.dialog_id != current_id:
        inside = _("in “{name}” (ended)") if dialog.ended else _("in “{name}”")
        where = " · " + inside.format(name=discord.utils.escape_markdown(dialog.name or ""))
    excerpt = _excerpt(text, position)
    return f"{discord.utils.format_dt(exchange.at, 'f')}{where}\n**{discord.utils.escape_markdown(who)}:** {excerpt}"


def results_page(
    exchanges: Sequence[Exchange],
    wanted: str,
    dialogs: Mapping[int, DialogHead],
    current_id: int | None,
    private_id: int | None = None,
) -> tuple[str, int]:
    """As many results as a page has room for, one at least, and how many they are.

    `current_id`, `private_id`: the conversation in use, and the member's own one beside a shared one.
    """
    lines: list[str] = []
    length = 0
    for each in exchanges:
        line = result_line(each, wanted, dialogs.get(each.dialog_id), current_id, private_id)
        length += utf16_length(line) + 2
        if lines and length > PAGE_CHARS:
            break
        lines.append(line)
    return "\n\n".join(lines), len(lines)


def _position(text: str, wanted: str) -> tuple[int, int] | None:
    """Where a text contains another one, in upper or lower case."""
    found = re.search(re.escape(wanted), text, re.IGNORECASE)
    return None if found is None else found.span()


def _excerpt(text: str, position: tuple[int, int] | None) -> str:
    """Some words around a place, on one line, the place in bold. The rest is shown as typed."""
    start, end = position or (0, 0)
    begin, stop = max(0, start - _BEFORE), min(len(text), end + _AFTER)
    before, found, after = (
        discord.utils.escape_mentions(discord.utils.escape_markdown(_line(piece, strip=False)))
        for piece in (text[begin:start], text[start:end], text[end:stop])
    )
    marked = f"**{found}**" if found.strip() else found
    return f"{'…' if begin else ''}{before}{marked}{after}{'…' if stop < len(text) else ''}".strip()


def _line(text: str, *, strip: bool = True) -> str:
    line = re.sub(r"\s+", " ", text)
    return line.strip() if strip else line


def transcript(exchanges: Sequence[Exchange], name: str | None) -> str:
    """A whole conversation as Markdown. Texts are quoted, so that their Markdown does not change the document's."""
    lines = [f"# {_line(name) if name else _('Conversation')}", ""]
    for each in exchanges:
        who = each.author or (_("You") if each.own else _(_UNNAMED))
        lines += [f"## {each.at:%Y-%m-%d %H:%M} UTC", "", f"**{discord.utils.escape_markdown(who)}**", ""]
        lines += [quoted(each.user), ""]
        for file in each.files:
            label = file_label(file)
            if file.kind == "file":
                label = _("file {name}").format(name=label)
            lines += [f"{label[0].upper()}{label[1:]}:", "", quoted(file.content), ""]
        lines += [f"**{_('Me')}**", "", quoted(each.reply), ""]
    return "\n".join(lines)


def transcript_data(exchanges: Sequence[Exchange], name: str | None) -> dict[str, object]:
    """The same for `bot.guilds.export.as_json`."""
    return {
        "conversation": name,
        "exchanges": [
            {
                "at": each.at,
                "author": each.author,
                "own": each.own,
                "message": each.user,
                "files": list(each.files),
                "reply": each.reply,
            }
            for each in exchanges
        ],
    }
