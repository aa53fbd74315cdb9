"""What the parts of /admin share: how they answer, and a deletion that is confirmed by typing.

The buttons and forms of /admin have custom ids `admin:word:arguments`. Each passes the permission check, as a command
does; the arguments are numbers, and every query is limited to the guild in which the button was pressed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import discord
from discord.ui import Label, Modal, TextInput

from bot.cogs.dialogs.answers import OldButton, answer
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer, defer_click
from bot.discord_app.feature_cog import ComponentHandler
from bot.discord_app.modal_values import submitted_values
from bot.discord_app.permissions.actions import Action
from bot.discord_app.rest.message_api import MessageApi
from bot.errors import Hint
from bot.i18n.language import gettext as _
from models.types import DialogKey

T = TypeVar("T")
_MAX_TYPED = 100
_TYPED = "typed"


class AdminPart:
    """A part of /admin: its services, and the buttons that it serves by the second word of their custom ids."""

    def __init__(self, context: CommandContext, api: MessageApi) -> None:
        self.context = context
        self.api = api

    def handlers(self) -> Mapping[str, ComponentHandler]:
        """The buttons and forms of this part; a handler gets what comes after its word."""
        return {}

    async def answer(self, interaction: Interaction, text: str, components: Sequence[dict[str, Any]] = ()) -> None:
        """Put this into the response of a deferred interaction."""
        await answer(self.api, interaction, text, components)


def custom_id(word: str, *arguments: object) -> str:
    """The custom id of a button of /admin."""
    return ":".join([Action.ADMIN.value, word, *(str(each) for each in arguments)])


def guild_key(interaction: Interaction, user_id: int | None = None) -> DialogKey:
    """The guild in which this happens, and a member of it; by default who does it."""
    return DialogKey(interaction.guild_id or 0, interaction.user.id if user_id is None else user_id)


def one_page(
    found: tuple[T, ...], size: int, *, before: int | None, after: int | None
) -> tuple[tuple[T, ...], bool, bool]:
    """A page of what was found before or after an entry, `size` + 1 at most; whether older and newer ones are there."""
    more = len(found) > size
    if after is not None:
        return found[-size:], True, more
    return found[:size], more, before is not None


async def begin(interaction: Interaction) -> bool:
    """Defer a command as ephemeral, and a button or form as an edit of its message. False when it was too late."""
    if interaction.type is discord.InteractionType.application_command:
        return await defer(interaction, ephemeral=True)
    if interaction.message is None or not interaction.message.flags.ephemeral:
        raise OldButton()  # these buttons stand under ephemeral messages only
    return await defer_click(interaction)


def typed_modal(title: str, modal_id: str, number: int) -> Modal:
    """The form in which a deletion is confirmed: by its number, or the guild's name."""
    modal = Modal(title=title, custom_id=modal_id, timeout=None)
    field: TextInput[Modal] = TextInput(custom_id=_TYPED, max_length=_MAX_TYPED, placeholder=str(number))
    modal.add_item(
        Label(
            text=_("Type {number} or the name of this guild").format(number=number),
            description=_("This makes sure that it does not happen by mistake."),
            component=field,
        )
    )
    modal.stop()  # discord.py need not remember it: the bot serves modals by their custom ids
    return modal


def check_typed(interaction: Interaction, number: int) -> None:
    """Raise Hint unless the form was filled in with this number or the guild's name."""
    values = submitted_values(interaction.data).get(_TYPED) or ("",)
    typed = " ".join(values[0].split()).casefold()
    name = " ".join(interaction.guild.name.split()).casefold() if interaction.guild else ""
    if typed and (re.sub(r"[\s.,'\u2019]", "", typed) == str(number) or typed == name):
        return
    raise Hint(
        _("Nothing was deleted: please type {number} or the name of this guild to confirm.").format(number=number)
    )
