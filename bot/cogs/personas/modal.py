"""The forms in which a persona is written, and the values of a submitted one.

Its custom id says what it is for, so that a submitted text is not lost if the bot restarted in the meantime.
"""

from __future__ import annotations

from dataclasses import dataclass

import discord
from discord.ui import Label, Modal, TextInput

from bot.discord_app.context import Interaction
from bot.discord_app.modal_values import submitted_values
from bot.guilds.persona_checks import MAX_NAME_CHARS, MAX_TAG_CHARS, MAX_TAGS
from bot.i18n.language import gettext as _

_MAX_FIELD_CHARS = 4000  # Discord's limit for a text input


@dataclass(frozen=True, slots=True)
class PersonaForm:
    """What a form is filled in with, or what was submitted. None: the form has no such field, or it was not sent."""

    prompt: str | None = None
    name: str | None = None
    tags: str | None = None


def persona_modal(custom_id: str, title: str, form: PersonaForm, *, max_chars: int, editing: bool = False) -> Modal:
    """A form with these values filled in. A prompt longer than a field can hold is left out.

    `editing`: an empty prompt then leaves the text as it is, and the name is needed. Tags are asked for if there are.
    """
    max_length = min(max_chars, _MAX_FIELD_CHARS)
    fits = form.prompt is not None and len(form.prompt) <= max_length
    prompt: TextInput[Modal] = TextInput(
        custom_id="prompt",
        style=discord.TextStyle.paragraph,
        placeholder=_("You are …")
        if fits or not editing
        else _("Too long for this form: left empty, it stays as it is."),
        default=form.prompt or None if fits else None,
        required=not editing or fits,
        max_length=max_length,
    )
    name: TextInput[Modal] = TextInput(
        custom_id="name", required=editing, default=form.name or None, max_length=MAX_NAME_CHARS
    )
    modal = Modal(title=title, custom_id=custom_id, timeout=None)
    modal.add_item(
        Label(text=_("Who am I?"), description=_("What I am told before every conversation"), component=prompt)
    )
    modal.add_item(Label(text=_("Name"), component=name))
    if form.tags is not None:
        tags: TextInput[Modal] = TextInput(
            custom_id="tags",
            required=False,
            default=form.tags or None,
            placeholder=_("pirate, sea, fun"),
            max_length=MAX_TAGS * (MAX_TAG_CHARS + 2),
        )
        modal.add_item(Label(text=_("Tags"), description=_("Words to find it by, with commas between"), component=tags))
    modal.stop()  # discord.py need not remember it: the bot serves modals by their custom ids
    return modal


def submitted_form(interaction: Interaction) -> PersonaForm:
    """The values of a submitted form, in whichever layout Discord sends them."""
    values = submitted_values(interaction.data)
    fields = {name: values[name][0] if values.get(name) else None for name in ("prompt", "name", "tags")}
    return PersonaForm(**fields)
