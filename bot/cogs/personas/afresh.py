"""What becomes of the conversations where another persona answers: they go on, or begin afresh.

Who did not say it with the command is asked below its answer, if there is anything to go on with. The persona is set by
then, and the conversations go on unless a button says otherwise. Its press is authorised like the command.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from bot.cogs.dialogs.answers import OldButton, answer, begin, number
from bot.cogs.dialogs.buttons import Json, button, moment_id, moment_of, row
from bot.cogs.personas.announcing import announce
from bot.cogs.personas.places import Slot, channels_of, slot_of_word
from bot.cogs.personas.text import (
    KEEP_OR_AFRESH,
    TOO_LATE_FOR_AFRESH,
    afresh_text,
    answered_question,
    public_afresh_text,
    question_text,
)
from bot.discord_app.caller import Caller, caller_of, dialog_scope
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.rest.message_api import MessageApi
from bot.i18n.language import gettext as _
from models.types import DialogKey

DialogChoice = Literal["ask", "keep", "afresh"]
"""What the command said of the conversations."""
ASKED_WITHIN = timedelta(minutes=10)
_PRIMARY = 1


def choice_of(word: str | None) -> DialogChoice:
    """The choice that an option or a custom id names; without one, the caller is asked."""
    return "keep" if word == "keep" else "afresh" if word == "afresh" else "ask"


@dataclass(frozen=True, slots=True)
class Afresh:
    """What came of it: in words, whether anything was ended, and whether that was all that is said in the place."""

    text: str
    ended: bool
    whole_place: bool


class ConversationEnder:
    """Ends the conversations of a place or a member, and asks whether to."""

    def __init__(self, context: CommandContext, api: MessageApi) -> None:
        self._context = context
        self._api = api

    async def respond(self, interaction: Interaction, slot: Slot, text: str, choice: DialogChoice) -> None:
        """Answer the command that set a persona there, with the question where it is to be asked."""
        if choice != "ask" or not await self._any(interaction, slot):
            await self._context.respond(interaction, text)
            return
        minutes = round(ASKED_WITHIN.total_seconds() / 60)
        asked = f"{text}\n\n{question_text(slot.level, slot.place_id, minutes)}"
        await answer(self._api, interaction, asked, _buttons(slot, datetime.now(UTC)))

    async def pressed(self, interaction: Interaction, own: bool, argument: str) -> None:
        """Do what the button says. `argument`: that, the place, and when the question was asked."""
        word, _colon, rest = argument.partition(":")
        place, _colon, moment = rest.partition(":")
        slot = slot_of_word(place)
        if word not in ("keep", "afresh") or slot is None or slot.own is not own:
            raise OldButton()
        try:
            asked_at = moment_of(number(moment))
        except OverflowError:
            raise OldButton() from None
        if not await begin(interaction):
            return
        said = interaction.message.content if interaction.message else ""
        if word == "keep":
            await answer(self._api, interaction, answered_question(said))
        elif datetime.now(UTC) - asked_at > ASKED_WITHIN:
            await answer(self._api, interaction, f"{answered_question(said)}\n{_(TOO_LATE_FOR_AFRESH[own])}")
        else:
            done = await self.begin_afresh(interaction, slot, begun_before=asked_at)
            await answer(self._api, interaction, answered_question(said, done.text))
            if done.ended and done.whole_place and not own:
                await announce(self._context, interaction, public_afresh_text(slot.level, slot.place_id))

    async def begin_afresh(
        self, interaction: Interaction, slot: Slot, *, begun_before: datetime | None = None
    ) -> Afresh:
        """End the conversations of a place, those that were begun before this moment; or the member's own one here."""
        if slot.own:
            reset = await self._context.chat.dialogs.reset(await self._own_key(interaction))
            text = _("We begin a new conversation; `/history undo` takes that back.")
            return Afresh(text, bool(reset.pairs), True)
        caller = caller_of(interaction)
        channels = channels_of(interaction.guild, slot)
        ended = await self._context.personas.begin_afresh(
            caller.guild_id, channels, begun_before=begun_before, actor_id=caller.user_id
        )
        some_go_on = channels is not None and await self._has_guild_wide(caller)
        return Afresh(afresh_text(ended, guild_wide_go_on=some_go_on), bool(ended.dialogs), not some_go_on)

    async def _any(self, interaction: Interaction, slot: Slot) -> bool:
        """Whether something was said in what `begin_afresh` would end."""
        if slot.own:
            return bool(await self._context.chat.turns.history(await self._own_key(interaction), 1))
        channels = channels_of(interaction.guild, slot)
        return await self._context.personas.has_conversations(caller_of(interaction).guild_id, channels)

    async def _own_key(self, interaction: Interaction) -> DialogKey:
        """The conversation here that is the member's alone."""
        key = await self._context.current_dialog_key(interaction)
        return key.private or key

    async def _has_guild_wide(self, caller: Caller) -> bool:
        """Whether members talk in conversations here that belong to no channel."""
        settings = await self._context.guild_settings.get(caller.guild_id)
        return dialog_scope(caller, settings) == "member"


def _buttons(slot: Slot, now: datetime) -> list[Json]:
    rest = f"{slot.word}:{moment_id(now)}"
    word = "me" if slot.own else "persona"
    keep, afresh = (_(label) for label in KEEP_OR_AFRESH[slot.own])
    return row(
        {**button(keep, f"{word}:dialogs:keep:{rest}"), "style": _PRIMARY},
        button(afresh, f"{word}:dialogs:afresh:{rest}"),
    )
