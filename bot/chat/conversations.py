"""Several conversations of one key, of which one is in use: begin, list, switch, rename, delete.

Knows their rules and what a member is told of them. Who may change those that a channel shares is up to the caller.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

from bot.chat.service import ChatService
from bot.errors import BotError, EmptyText, NulCharacters, TooLong
from bot.i18n.language import N_
from bot.i18n.language import gettext as _
from bot.storage import translate_database_errors
from bot.text import has_nul
from models.database import Database
from models.queries.dialogs import conversations as stored
from models.types import ConversationChange, ConversationInfo, DialogKey

MAX_NAME = 60
_OPTED_OUT = N_("You opted out of being remembered, so there is nothing to go back to. `/privacy optin` changes that.")


class UnknownConversation(BotError):
    """No conversation of this key has such a name or id."""

    def __init__(self) -> None:
        super().__init__(_("I know no such conversation here. `/conversation list` shows those that there are."))


class NamedConversations:
    """The conversations of any key."""

    def __init__(self, database: Database, chat: ChatService) -> None:
        self._database = database
        self._chat = chat

    async def known(self, key: DialogKey) -> tuple[ConversationInfo, ...]:
        """The conversations of this key, the one in use first."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await stored.conversations(session, key=key)

    async def find(self, key: DialogKey, wanted: str) -> ConversationInfo:
        """The conversation that an option names: by its name, or by the id that a suggestion carries.

        Raises UnknownConversation.
        """
        name = folded_name(wanted)
        known = await self.known(key)
        for each in known:
            if each.name is not None and folded_name(each.name) == name:
                return each
        for each in known:
            if str(each.dialog_id) == wanted.strip():
                return each
        raise UnknownConversation()

    async def new(self, key: DialogKey, name: str | None) -> bool:
        """Begin another conversation; False if the one in use is still empty and gets no name."""
        name = None if name is None else clean_title(name)
        with translate_database_errors():
            change = await self._database.run(
                lambda session: stored.new_conversation(session, key=key, name=name, now=_now())
            )
        self._raise_for(change)
        if change == "done":
            self._refuse_waiting(key)
        return change == "done"

    async def switch(self, key: DialogKey, dialog_id: int) -> bool:
        """Go on with another conversation; False if it is the one in use. A running reply stays in its own."""
        with translate_database_errors():
            change = await self._database.run(
                lambda session: stored.switch_conversation(session, key=key, dialog_id=dialog_id, now=_now())
            )
        self._raise_for(change)
        if change == "done":
            self._refuse_waiting(key)
        return change == "done"

    async def rename(self, key: DialogKey, dialog_id: int | None, name: str) -> str:
        """Give a conversation a name, the one in use without an id; return the name as it is stored."""
        title = clean_title(name)
        with translate_database_errors():
            change = await self._database.run(
                lambda session: stored.rename_conversation(
                    session, key=key, dialog_id=dialog_id, name=title, now=_now()
                )
            )
        self._raise_for(change)
        return title

    async def delete(self, key: DialogKey, dialog_id: int) -> None:
        """Delete a conversation for good."""
        with translate_database_errors():
            change = await self._database.run(
                lambda session: stored.delete_conversation(session, key=key, dialog_id=dialog_id)
            )
        self._raise_for(change)

    def _refuse_waiting(self, key: DialogKey) -> None:
        text = _("The conversation was changed before I came to this message. Please ask again.")
        self._chat.dialogs.refuse_waiting(key, lambda: BotError(text))

    def _raise_for(self, change: ConversationChange) -> None:
        if change == "gone":
            raise UnknownConversation()
        if change == "taken":
            raise BotError(_("There is a conversation of this name already. Please choose another name."))
        if change == "full":
            most = stored.MAX_CONVERSATIONS
            text = _("There are {number} conversations here, and more I cannot keep. Please delete one first.")
            raise BotError(text.format(number=most))
        if change == "opted out":
            raise BotError(_(_OPTED_OUT))


def clean_title(name: str) -> str:
    """A name as one line without control characters. Raises EmptyText, TooLong or NulCharacters."""
    if has_nul(name):
        raise NulCharacters("name")
    kept = "".join(_kept(each) for each in unicodedata.normalize("NFC", name))
    title = " ".join(kept.split())
    if not title:
        raise EmptyText("name")
    if len(title) > MAX_NAME:
        raise TooLong("name", MAX_NAME, len(title))
    return title


def _kept(character: str) -> str:
    """The character as a name may have it: no control characters, and of the formats only the joiner of emoji."""
    category = unicodedata.category(character)
    if category in ("Cf", "Cs") and character != "\u200d":
        return ""
    return " " if category[0] in "CZ" and category != "Cf" else character


def folded_name(name: str) -> str:
    """A name without the differences that do not matter."""
    return " ".join(unicodedata.normalize("NFC", name).split()).casefold()


def _now() -> datetime:
    return datetime.now(UTC)
