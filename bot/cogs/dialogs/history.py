"""/history: read, search, keep, edit or partly forget what was said here, and take a reset back; for the member alone.

The pages have ◀ ▶ under them, which are served by their custom ids: what they say is only where to go on, and whose
conversations may be read is decided by who presses.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from typing import Any, Literal

import discord
from discord import app_commands

from bot.chat.history import HistoryReader, Stretch
from bot.cogs.dialogs.answers import OldButton, answer, begin, number
from bot.cogs.dialogs.buttons import arrows, button, row
from bot.cogs.dialogs.edit import EditCommand
from bot.cogs.dialogs.pages import (
    RESULTS,
    Mark,
    Page,
    page_after,
    page_before,
    results_page,
    transcript,
    transcript_data,
)
from bot.cogs.dialogs.reset import exchanges, undone_text
from bot.cogs.dialogs.whose import PRIVATE, SHARED, DialogsHere, changeable, dialogs_here, readable_dialogs
from bot.cogs.memory.why import WhyThisAnswer
from bot.discord_app.caller import caller_of
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.permissions.actions import Action
from bot.discord_app.permissions.authorise import authorise_shared
from bot.discord_app.replies.conversation import Conversations
from bot.discord_app.rest.message_data import NO_MENTIONS
from bot.discord_app.splitting.code_fences import utf16_length
from bot.errors import BotError, EmptyText
from bot.guilds.export import as_json
from bot.i18n.language import N_
from bot.i18n.language import gettext as _
from bot.text import clean_text
from models.types import DialogKey

MAX_SEARCH = 60
"""Characters of a search: its buttons carry it, and a custom id holds 100."""
_NOT_BEGUN = N_("Our conversation has not begun yet.")


class History(FeatureCog):
    """The commands for what was said."""

    history = app_commands.Group(name="history", description="What we said to each other here")

    def __init__(
        self, context: CommandContext, conversations: Conversations, reader: HistoryReader, why: WhyThisAnswer
    ) -> None:
        super().__init__(context)
        self._why = why
        self._api = conversations.api
        self._reader = reader
        self._editing = EditCommand(context, conversations, reader)

    @history.command(name="show", description="Show our conversation, to you alone.")
    @app_commands.describe(count="How many of the last exchanges (default: all, page by page)")
    async def show(self, interaction: Interaction, count: app_commands.Range[int, 1, 100] | None = None) -> None:
        """/history show."""
        if await begin(interaction):
            here = await self._readable(interaction)
            key = here.first
            if here.also is not None and not await self._reader.is_begun(key):
                key = here.also
            oldest = 0 if count is None else await self._reader.oldest_of_last(key, count)
            await self._show_page(interaction, here, key, oldest=oldest)

    @history.command(
        name="search", description="Search what we said, here and in our other conversations in this guild."
    )
    @app_commands.describe(text="Words to look for, in upper or lower case")
    async def search(self, interaction: Interaction, text: app_commands.Range[str, 1, MAX_SEARCH]) -> None:
        """/history search."""
        if not await begin(interaction):
            return
        wanted = clean_text(" ".join(text.split()))
        if not wanted:
            raise EmptyText("search")
        if utf16_length(wanted) > MAX_SEARCH:
            raise BotError(_("Please search for less: {number} characters at most.").format(number=MAX_SEARCH))
        await self._show_results(interaction, wanted, before=None)

    @history.command(name="export", description="Get our conversation here as a file.")
    @app_commands.describe(format="md to read (default), json for programs")
    async def export(self, interaction: Interaction, format: Literal["md", "json"] = "md") -> None:
        """/history export."""
        if not await begin(interaction):
            return
        here = await self._readable(interaction)
        files: list[discord.File] = []
        for key in here.keys:
            stretch = await self._reader.whole(key)
            if stretch is not None and stretch.exchanges:
                content = await asyncio.to_thread(_exported, stretch, format)
                if len(content) > interaction.filesize_limit:
                    raise BotError(
                        _(
                            "Our conversation is too long for one file on Discord. `/history show` shows it page by "
                            "page."
                        )
                    )
                name = "private-conversation" if here.several and not key.shared else "conversation"
                files.append(discord.File(io.BytesIO(content), f"{name}.{format}"))
        if not files:
            await answer(self._api, interaction, _(_NOT_BEGUN))
            return
        text = _("Our conversation, up to now.")
        if len(files) > 1:
            text = _("What everyone here shares, and our private conversation here, up to now.")
        await interaction.edit_original_response(content=text, attachments=files, allowed_mentions=NO_MENTIONS)

    @history.command(name="edit", description="Change what you said, and get another answer to it.")
    @app_commands.describe(exchange="Which of your messages (default: the last one)")
    async def edit(self, interaction: Interaction, exchange: str | None = None) -> None:
        """/history edit."""
        await self._editing.command(interaction, exchange)

    @edit.autocomplete("exchange")
    async def _own_exchanges(self, interaction: Interaction, current: str) -> list[app_commands.Choice[str]]:
        return await self._editing.suggestions(interaction, current)

    @history.command(name="forget", description="Forget the last of our conversation, for good.")
    @app_commands.describe(
        count="How many exchanges (default: 1)",
        private="Of our private conversation here, where everyone shares another one",
    )
    async def forget(
        self, interaction: Interaction, count: app_commands.Range[int, 1, 100] = 1, private: bool = False
    ) -> None:
        """/history forget. In a shared conversation a member forgets their own exchanges only."""
        if not await begin(interaction):
            return
        here = await dialogs_here(self.context, interaction)
        key = here.also if private and here.also is not None else here.first
        own_only = key.shared and not caller_of(interaction).manages_guild
        forgotten = await self.context.chat.dialogs.forget(key, count, own_only=own_only)
        text = _("There was nothing to forget.")
        if forgotten:
            text = _("I have forgotten {exchanges}.").format(exchanges=exchanges(forgotten))
        await answer(self._api, interaction, text)

    @history.command(name="why", description="Show what I had before me when I wrote my last answer to you.")
    async def why(self, interaction: Interaction) -> None:
        """/history why."""
        await self._why.of_last(interaction)

    @history.command(name="undo", description="Take back your last /reset, of the last minutes.")
    async def undo(self, interaction: Interaction) -> None:
        """/history undo."""
        if not await begin(interaction):
            return
        here = await dialogs_here(self.context, interaction)
        mine = changeable(caller_of(interaction), here)
        undone = await self.context.chat.dialogs.undo_reset(mine.first, also=mine.also)
        if undone is None:
            authorise_shared(caller_of(interaction), here.first, "take back a reset of")
        await answer(self._api, interaction, undone_text(undone))

    def component_handlers(self) -> Mapping[str, ComponentHandler]:
        """◀ ▶ under pages and results, and the button and modal of an edit."""
        return {Action.HISTORY.value: self._pressed}

    async def _pressed(self, interaction: Interaction, argument: str) -> None:
        what, _, rest = argument.partition(":")
        if what in ("older", "newer"):
            dialog_id, turn_id, part, oldest = _numbers(rest, 4)
            if await begin(interaction):
                here = await self._readable(interaction)
                mark, forward = Mark(turn_id, part), what == "newer"
                await self._show_page(
                    interaction, here, here.first, dialog_id=dialog_id, mark=mark, forward=forward, oldest=oldest
                )
        elif what == "of":
            if await begin(interaction):
                here = await self._readable(interaction)
                await self._show_page(interaction, here, here.keys[-1] if rest == "private" else here.first)
        elif what == "find":
            before, _, wanted = rest.partition(":")
            turn_id = number(before)
            if await begin(interaction):
                await self._show_results(interaction, wanted, before=turn_id or None)
        elif what == "edit":
            await self._editing.pressed(interaction, rest)
        else:
            raise OldButton()

    async def _readable(self, interaction: Interaction) -> DialogsHere:
        return await readable_dialogs(self.context, interaction, self._reader)

    async def _show_page(
        self,
        interaction: Interaction,
        here: DialogsHere,
        key: DialogKey,
        *,
        dialog_id: int | None = None,
        mark: Mark | None = None,
        forward: bool = False,
        oldest: int = 0,
    ) -> None:
        """Show the page before or after a place, or the last one. Pairs before turn `oldest` are not shown."""
        before = mark.turn_id + 1 if mark and not forward else None
        after = mark.turn_id - 1 if mark and forward else None
        stretch = await self._reader.stretch(key, dialog_id=dialog_id, before=before, after=after)
        shown = [] if stretch is None else [each for each in stretch.exchanges if each.turn_id >= oldest]
        page = page_after(shown, mark) if mark and forward else page_before(shown, mark)
        if stretch is None or page is None:
            gone = _("I remember nothing more of this conversation.") if mark else _(_NOT_BEGUN)
            await answer(self._api, interaction, gone)
            return
        dialog_id = stretch.dialog.dialog_id
        num_before, num_after = await self._reader.counts(
            key, dialog_id, first=page.first.turn_id, last=page.last.turn_id, oldest=oldest
        )
        older = newer = None
        if num_before or page.first.part:
            older = f"history:older:{dialog_id}:{page.first.turn_id}:{page.first.part}:{oldest}"
        if num_after or not page.ends_turn:
            newer = f"history:newer:{dialog_id}:{page.last.turn_id}:{page.last.part}:{oldest}"
        text = page.text if older is None and newer is None else f"{page.text}\n{_footer(page, num_before, num_after)}"
        buttons = arrows(older, newer)
        if here.several:
            text = f"-# {_(SHARED if stretch.dialog.shared else PRIVATE)}\n{text}"
            buttons += await self._to_the_other(here, shared=stretch.dialog.shared)
        await answer(self._api, interaction, text, buttons)

    async def _to_the_other(self, here: DialogsHere, *, shared: bool) -> list[dict[str, Any]]:
        """The button to the private conversation, or back to the shared one, if there is something to read."""
        other = here.also if shared else here.first
        if other is None or other.shared is shared or not await self._reader.is_begun(other):
            return []
        return row(button(_(PRIVATE if shared else SHARED), f"history:of:{'private' if shared else 'shared'}"))

    async def _show_results(self, interaction: Interaction, wanted: str, *, before: int | None) -> None:
        here = await self._readable(interaction)
        key = here.first
        found = await self._reader.search(key, wanted, before=before, limit=RESULTS)
        current = await self._reader.stretch(key)
        current_id = current.dialog.dialog_id if current else None
        private = await self._reader.stretch(here.keys[-1]) if here.several else None
        private_id = private.dialog.dialog_id if private else None
        text, num_shown = results_page(found.exchanges, wanted, found.dialogs, current_id, private_id)
        cut = num_shown < len(found.exchanges)
        older_from = found.exchanges[num_shown - 1].turn_id if cut else found.older_from
        shown = discord.utils.escape_markdown(wanted)
        if not text:
            text = _("I found nothing more about “{text}”.") if before else _("I found nothing about “{text}”.")
            text = text.format(text=shown)
        if found.gave_up and not cut:
            text += "\n" + _("-# There is more to look through: ▶ goes on.")
        elif older_from is not None or before is not None:
            text += "\n" + _("-# “{text}”, the newest first").format(text=shown)
        buttons = _result_buttons(wanted, before, older_from)
        await answer(self._api, interaction, text, buttons)


def _result_buttons(wanted: str, before: int | None, older_from: int | None) -> list[dict[str, Any]]:
    """To the first page of results, and to the next one."""
    back = None if before is None else f"history:find:0:{wanted}"
    forth = None if older_from is None else f"history:find:{older_from}:{wanted}"
    return arrows(back, forth)


def _exported(stretch: Stretch, format: Literal["md", "json"]) -> bytes:
    """A conversation as the content of a file."""
    content, name = stretch.exchanges, stretch.dialog.name
    return (as_json(transcript_data(content, name)) if format == "json" else transcript(content, name)).encode()


def _footer(page: Page, num_before: int, num_after: int) -> str:
    first, last = num_before + 1, num_before + page.num_turns
    if first == last:
        return _("-# Exchange {number} of {total}").format(number=first, total=last + num_after)
    return _("-# Exchanges {first}–{last} of {total}").format(first=first, last=last, total=last + num_after)


def _numbers(text: str, count: int) -> tuple[int, ...]:
    parts = text.split(":")
    if len(parts) != count:
        raise OldButton()
    return tuple(number(part) for part in parts)
