"""The menu of a message: "Ask about this" opens a form for the question, and its text is answered like any other.

What the message says becomes part of the prompt, quoted and untrusted, and is stored with the question. Discord sends
it with the use of the menu; until the form comes back it is kept in memory (`QuotedMessages`).
"""

from __future__ import annotations

from collections.abc import Mapping

import discord
from discord import app_commands
from discord.ext import commands
from discord.ui import Label, Modal, Select, TextInput

from bot.chat.prompts.speakers import clean_name
from bot.cogs.chat import place_of, wants_private
from bot.discord_app.caller import caller_of
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.modal_values import submitted_values
from bot.discord_app.permissions.actions import ASK_MENU, Action
from bot.discord_app.replies.acknowledge import acknowledged
from bot.discord_app.replies.conversation import Conversations
from bot.discord_app.replies.question import Question
from bot.discord_app.replies.quoted_messages import QuotedMessage, QuotedMessages, quoted
from bot.discord_app.rest.message_data import NO_MENTIONS
from bot.errors import BotError
from bot.i18n.language import N_
from bot.i18n.language import gettext as _
from models.types import StoredFile

_DEFAULT_QUESTION = N_("What is this about?")
_MAX_TITLE = 45  # Discord's limit
_MAX_TEXT_INPUT = 4000  # Discord's limit
_MAX_ECHO = 1500
_QUESTION, _AUDIENCE = "question", "audience"
_EVERYONE, _ONLY_ME = "everyone", "me"
_NOTHING_TO_READ = N_(
    "This message has no text, and no file that I could read: I take in neither voice messages nor stickers, embeds or "
    "previews of links."
)
_TOO_LATE = N_(
    "I no longer have the message that this is about: too much time has passed, I was restarted, or it was deleted. "
    "Please choose **Ask about this** in its menu again."
)


class Ask(FeatureCog):
    """Answers questions about messages."""

    def __init__(self, bot: commands.Bot, context: CommandContext, conversations: Conversations) -> None:
        super().__init__(context)
        self._bot = bot
        self._conversations = conversations
        self._messages = QuotedMessages()
        self._menu = app_commands.ContextMenu(name=ASK_MENU, callback=self.open_form)

    async def cog_load(self) -> None:
        """Register the menu: discord.py does so by itself for slash commands only."""
        self._bot.tree.add_command(self._menu)

    async def cog_unload(self) -> None:
        """Take the menu back."""
        self._bot.tree.remove_command(self._menu.name, type=self._menu.type)

    def component_handlers(self) -> Mapping[str, ComponentHandler]:
        """The form."""
        return {Action.ASK.value: self._form_sent}

    @commands.Cog.listener()
    async def on_raw_message_delete(self, event: discord.RawMessageDeleteEvent) -> None:
        """Drop a deleted message: a form that is open for it is refused from now on."""
        self._messages.forget(event.message_id)

    @commands.Cog.listener()
    async def on_raw_bulk_message_delete(self, event: discord.RawBulkMessageDeleteEvent) -> None:
        """Drop messages that were deleted together."""
        for message_id in event.message_ids:
            self._messages.forget(message_id)

    async def open_form(self, interaction: Interaction, message: discord.Message) -> None:
        """Ask for the question. A modal must be the first response, so nothing is awaited for long before it."""
        me = self._bot.user
        found = quoted(message, bot_id=me.id if me else 0, application_id=self._bot.application_id)
        if not found.text and not any(not file.is_voice for file in found.files):
            raise BotError(_(_NOTHING_TO_READ))
        self._messages.keep(interaction.user.id, found)
        modal = _form(
            found,
            max_chars=self.context.settings.max_message_chars,
            asks_who=_is_shown(interaction),
            private=await wants_private(self.context, interaction),
        )
        await interaction.response.send_modal(modal)

    async def _form_sent(self, interaction: Interaction, argument: str) -> None:
        """Answer the question. `argument`: the id of the message that it is about, and nothing else of it."""
        values = submitted_values(interaction.data)
        text = next(iter(values.get(_QUESTION, ())), "")
        caller = caller_of(interaction)
        message_id = int(argument) if argument.isdecimal() and len(argument) < 20 else 0
        found = self._messages.find(caller.user_id, message_id, caller.channel_id)
        if found is None:
            await _say_too_late(interaction, text)
            return
        private = _ONLY_ME in values.get(_AUDIENCE, ())
        place = place_of(interaction, ephemeral=private, about_id=found.message_id)
        said = StoredFile(found.author, found.text, kind="quote", author_id=found.author_id)
        async with acknowledged(self._conversations.deliveries, interaction, place) as asked:
            if asked is None:
                return
            shown, record = asked
            question = Question(
                caller,
                shown,
                text,
                offers=found.files,
                offers_kind="quoted file",
                offers_author_id=found.author_id,
                files=(said,) if found.text else (),
                quote=True,
            )
            await self._conversations.answer(question, record)


def _is_shown(interaction: Interaction) -> bool:
    """Whether others would see a public answer here."""
    if caller_of(interaction).bot_is_absent:
        return interaction.guild_id is None or interaction.permissions.use_external_apps
    return interaction.guild_id is not None


def _form(message: QuotedMessage, *, max_chars: int, asks_who: bool, private: bool = False) -> Modal:
    """The form for the question, and where it matters for who may see the answer."""
    title = _("Ask about {name}'s message").format(name=clean_name(message.author))
    title = title if len(title) <= _MAX_TITLE else title[: _MAX_TITLE - 1].rstrip() + "…"
    modal = Modal(title=title, custom_id=f"{Action.ASK.value}:{message.message_id}", timeout=None)
    max_length = min(max_chars, _MAX_TEXT_INPUT)
    default = _(_DEFAULT_QUESTION)
    question: TextInput[Modal] = TextInput(
        custom_id=_QUESTION,
        style=discord.TextStyle.paragraph,
        default=default if len(default) <= max_length else None,
        max_length=max_length,
    )
    modal.add_item(
        Label(
            text=_("Your question"),
            description=_("I read the message, and answer you about it."),
            component=question,
        )
    )
    if asks_who:
        audience: Select[Modal] = Select(
            custom_id=_AUDIENCE,
            options=[
                discord.SelectOption(label=_("Everyone here"), value=_EVERYONE, default=not private),
                discord.SelectOption(label=_("Only me"), value=_ONLY_ME, default=private),
            ],
        )
        modal.add_item(Label(text=_("Who sees the answer"), component=audience))
    modal.stop()  # discord.py need not remember it: the bot serves modals by their custom ids
    return modal


async def _say_too_late(interaction: Interaction, question: str) -> None:
    """Say that the message is not known any more, and give the question back to be used again."""
    shortened = question[:_MAX_ECHO].replace("```", "'''").strip()
    text = _(_TOO_LATE)
    if shortened:
        text = "\n".join([text, _("Your question was:"), "```", shortened, "```"])
    await interaction.response.send_message(text, ephemeral=True, allowed_mentions=NO_MENTIONS)
