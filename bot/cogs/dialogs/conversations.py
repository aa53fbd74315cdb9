"""/conversation: several conversations side by side, of which one is in use. All for the member alone.

In a shared place they belong to everyone there, so only its managers change them.
"""

from __future__ import annotations

from collections.abc import Mapping

import discord
from discord import app_commands

from bot.chat.conversations import MAX_NAME, NamedConversations, folded_name
from bot.cogs.dialogs.answers import MAX_SUGGESTIONS, OldButton, answer, begin, in_time, number
from bot.cogs.dialogs.buttons import button, row
from bot.discord_app.caller import caller_of
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.permissions.actions import Action
from bot.discord_app.permissions.authorise import authorise_reading, authorise_shared
from bot.discord_app.rest.message_api import MessageApi
from bot.errors import BotError
from bot.i18n.dates import day_and_time
from bot.i18n.language import gettext as _
from bot.i18n.language import ngettext
from models.types import ConversationInfo, DialogKey

Name = app_commands.Range[str, 1, MAX_NAME]
_MAX_BEGINNING = 40


class ConversationCommands(FeatureCog):
    """The commands for several conversations."""

    conversation = app_commands.Group(name="conversation", description="Keep several conversations with me, by name")

    def __init__(self, context: CommandContext, api: MessageApi, conversations: NamedConversations) -> None:
        super().__init__(context)
        self._api = api
        self._conversations = conversations

    @conversation.command(name="new", description="Begin another conversation. The one before is kept.")
    @app_commands.describe(name="What you want to call it")
    async def new(self, interaction: Interaction, name: Name | None = None) -> None:
        """/conversation new."""
        if not await begin(interaction):
            return
        key = await self._key_to_change(interaction, "begin another one beside")
        if await self._conversations.new(key, name):
            text = _("We begin a new conversation. `/conversation switch` goes back to the one before.")
            if name is not None:
                text = _("We begin a new conversation “{name}”. `/conversation switch` goes back to the one before.")
                text = text.format(name=_shown(" ".join(name.split())))
        else:
            text = _("This conversation is new already: we have not said anything in it yet.")
        await answer(self._api, interaction, text)

    @conversation.command(name="list", description="Show our conversations here.")
    async def show_list(self, interaction: Interaction) -> None:
        """/conversation list."""
        if not await begin(interaction):
            return
        key = await self.context.current_dialog_key(interaction)
        authorise_reading(caller_of(interaction), key)
        known = await self._conversations.known(key)
        lines = [_list_line(each) for each in known]
        text = "\n".join([_("Our conversations here:"), *lines])
        if not lines:
            text = _("We have no conversation here yet.")
        if len(lines) > 1:
            text += "\n" + _("-# `/conversation switch` goes on with another one.")
        await self.context.respond(interaction, text)

    @conversation.command(name="switch", description="Go on with another conversation.")
    @app_commands.describe(name="Which one")
    async def switch(self, interaction: Interaction, name: str) -> None:
        """/conversation switch."""
        if not await begin(interaction):
            return
        key = await self._key_to_change(interaction, "change")
        found = await self._conversations.find(key, name)
        if await self._conversations.switch(key, found.dialog_id):
            text = _("We go on with {conversation}.").format(conversation=_title(found))
        else:
            text = _("{conversation} is the conversation in use already.").format(conversation=_title(found))
        await answer(self._api, interaction, text)

    @conversation.command(name="rename", description="Give a conversation another name.")
    @app_commands.describe(name="Its new name", conversation="Which one (default: the one in use)")
    async def rename(self, interaction: Interaction, name: Name, conversation: str | None = None) -> None:
        """/conversation rename."""
        if not await begin(interaction):
            return
        key = await self._key_to_change(interaction, "rename")
        dialog_id = None if conversation is None else (await self._conversations.find(key, conversation)).dialog_id
        title = await self._conversations.rename(key, dialog_id, name)
        await answer(self._api, interaction, _("It is called “{name}” from now on.").format(name=_shown(title)))

    @conversation.command(name="delete", description="Delete a conversation for good. I ask you first.")
    @app_commands.describe(name="Which one")
    async def delete(self, interaction: Interaction, name: str) -> None:
        """/conversation delete: ask for confirmation."""
        if not await begin(interaction):
            return
        key = await self._key_to_change(interaction, "delete")
        found = await self._conversations.find(key, name)
        text = _("This deletes {conversation} with {exchanges} for good. It cannot be undone.")
        text = text.format(conversation=_title(found), exchanges=_exchanges(found.num_pairs))
        confirm = row(button(_("Delete it"), f"{Action.CONVERSATION.value}:delete:{found.dialog_id}", danger=True))
        await answer(self._api, interaction, text, confirm)

    @switch.autocomplete("name")
    @delete.autocomplete("name")
    @rename.autocomplete("conversation")
    async def _suggested(self, interaction: Interaction, current: str) -> list[app_commands.Choice[str]]:
        """The conversations whose title contains what was typed; none if the database is slow."""
        try:
            async with in_time():
                key = await self.context.current_dialog_key(interaction)
                authorise_reading(caller_of(interaction), key)
                known = await self._conversations.known(key)
        except BotError:
            return []
        wanted = folded_name(current)
        choices = [(_plain_title(each), str(each.dialog_id)) for each in known]
        fitting = [each for each in choices if wanted in folded_name(each[0]) or each[1] == current]
        return [app_commands.Choice(name=name[:100], value=value) for name, value in fitting[:MAX_SUGGESTIONS]]

    def component_handlers(self) -> Mapping[str, ComponentHandler]:
        """The button that confirms a deletion."""
        return {Action.CONVERSATION.value: self._pressed}

    async def _pressed(self, interaction: Interaction, argument: str) -> None:
        """`argument`: "delete:" and the conversation. It is looked for among those of who presses."""
        word, _colon, dialog_id = argument.partition(":")
        if word != "delete":
            raise OldButton()
        wanted = number(dialog_id)
        if await begin(interaction):
            key = await self._key_to_change(interaction, "delete")
            await self._conversations.delete(key, wanted)
            await answer(self._api, interaction, _("The conversation is deleted."))

    async def _key_to_change(self, interaction: Interaction, change: str) -> DialogKey:
        """The key here, if the member may change its conversations."""
        key = await self.context.current_dialog_key(interaction)
        authorise_shared(caller_of(interaction), key, change)
        return key


def _plain_title(conversation: ConversationInfo) -> str:
    if conversation.name is not None:
        return conversation.name
    if conversation.beginning:
        line = " ".join(conversation.beginning.split())
        return line if len(line) <= _MAX_BEGINNING else line[: _MAX_BEGINNING - 1] + "…"
    return _("Conversation of {date}").format(date=day_and_time(conversation.last_active_at))


def _title(conversation: ConversationInfo) -> str:
    return f"“{_shown(_plain_title(conversation))}”"


def _list_line(conversation: ConversationInfo) -> str:
    used = _("**in use**") if conversation.in_use else discord.utils.format_dt(conversation.last_active_at, "R")
    return f"- {_title(conversation)} · {_exchanges(conversation.num_pairs)} · {used}"


def _exchanges(pairs: int) -> str:
    return ngettext("{number} exchange", "{number} exchanges", pairs).format(number=pairs)


def _shown(text: str) -> str:
    return discord.utils.escape_mentions(discord.utils.escape_markdown(text))
