"""What a member does with what is remembered of them: read, add, change, forget, switch on and off.

Knows the queries; who may do what is decided by the front-ends. The key selects the member and the guild.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from bot.errors import BotError, EmptyText
from bot.i18n.language import gettext as _
from bot.memory.cleaning import MAX_FACT, one_line
from bot.settings import Settings
from bot.storage import translate_database_errors
from models import queries
from models.database import Database
from models.queries.dialogs.prompts import prompt_of_turn
from models.queries.memory import facts, summaries
from models.queries.memory.forgetting import forget_before
from models.queries.tenants.member_settings import set_member_memory
from models.types import DIRECT_MESSAGES, DialogKey, MemoryFact, PromptUsed, Summary


class OptedOut(BotError):
    """The member opted out of all storage, so there is nothing to remember."""

    def __init__(self) -> None:
        super().__init__(
            _("You opted out of being remembered, so I keep no notes about you. `/privacy optin` takes that back.")
        )


@dataclass(frozen=True, slots=True)
class Remembered:
    """All that is remembered of a member here. `wanted`: they switched memory on; None if they have not chosen."""

    wanted: bool | None
    facts: tuple[MemoryFact, ...]
    summary: Summary | None
    """Of their conversation in use here."""


class MemoryService:
    """The memory of every member in one database."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self.available = settings.memory
        """Whether the operator lets the bot remember."""

    async def of(self, key: DialogKey) -> Remembered:
        """What is remembered of this member; `key` is that of their dialog here, which the summary is of."""
        with translate_database_errors():
            async with self._database.read() as session:
                summary = await summaries.summary_of(session, key=key)
                return Remembered(
                    (await queries.member_settings(session, key=key)).memory,
                    await facts.facts_of(session, key=key),
                    summary if summary is not None and summary.text else None,
                )

    async def fact(self, key: DialogKey, fact_id: int) -> MemoryFact | None:
        """One of the member's facts."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await facts.fact_of(session, key=key, fact_id=fact_id)

    async def links(self, key: DialogKey, known: Sequence[MemoryFact]) -> dict[int, str]:
        """Links to the replies of the turns that told these facts, by turn id, as far as there are public ones."""
        turn_ids = [fact.source_turn_id for fact in known if fact.source_turn_id is not None]
        with translate_database_errors():
            async with self._database.read() as session:
                found = await facts.sources_of(session, key=key, turn_ids=turn_ids)
        guild = key.guild_id or "@me"
        return {
            turn_id: f"https://discord.com/channels/{guild}/{channel_id}/{message_id}"
            for turn_id, (channel_id, message_id) in found.items()
        }

    async def switch(self, key: DialogKey, *, on: bool) -> None:
        """Remember this member from now on, or stop that. Facts stay until they are forgotten, summaries go.

        Raises OptedOut.
        """
        now = datetime.now(UTC)
        with translate_database_errors():
            async with self._database.write() as session:
                switched = await set_member_memory(session, key=key, memory=on, now=now)
                if switched and not on:
                    await summaries.forget_own_summaries(session, key=key)
        if not switched and on:
            raise OptedOut()

    async def add(self, key: DialogKey, text: str, *, everywhere: bool = False) -> str:
        """Remember what the member wrote; return it as it is kept. Raises EmptyText, OptedOut, or BotError.

        Nobody else has read it, so it is not used in conversations that several members share, unless the member wants
        it `everywhere`.
        """
        fact = _checked(text)
        now, private = datetime.now(UTC), key.guild_id != DIRECT_MESSAGES and not everywhere
        with translate_database_errors():
            added = await self._database.run(
                lambda session: facts.add_fact(session, key=key, text=fact, private=private, now=now)
            )
        if not added:
            raise OptedOut()
        return fact

    async def edit(self, key: DialogKey, fact_id: int, text: str) -> str | None:
        """Change the words of a fact; return them as they are kept. None if there is no such fact. Raises as `add`."""
        fact = _checked(text)
        now = datetime.now(UTC)
        with translate_database_errors():
            changed = await self._database.run(
                lambda session: facts.edit_fact(session, key=key, fact_id=fact_id, text=fact, now=now)
            )
        return fact if changed else None

    async def forget(self, key: DialogKey, fact_id: int) -> bool:
        """Forget a fact. False if there is no such fact."""
        with translate_database_errors():
            return await self._database.run(lambda session: facts.forget_fact(session, key=key, fact_id=fact_id))

    async def forget_all(self, key: DialogKey) -> int:
        """Forget all facts about the member in this guild and the summaries of their own dialogs; return how many.

        What was said before is not remembered again either.
        """
        now = datetime.now(UTC)
        with translate_database_errors():
            async with self._database.write() as session:
                await forget_before(session, key=key, now=now)
                count = await facts.forget_facts(session, key=key)
                return count + await summaries.forget_own_summaries(session, key=key)

    async def forget_summary(self, key: DialogKey) -> bool:
        """Forget the summary of the dialog in use here. False if it has none."""
        with translate_database_errors():
            return await self._database.run(lambda session: summaries.forget_summaries(session, key=key)) > 0

    async def why(self, key: DialogKey, turn_id: int) -> PromptUsed | None:
        """What the prompt of a turn of this dialog was made of; None if that was not recorded."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await prompt_of_turn(session, key=key, turn_id=turn_id)


def _checked(text: str) -> str:
    fact = one_line(text, 10 * MAX_FACT)
    if not fact:
        raise EmptyText("note")
    if len(fact) > MAX_FACT:
        too_long = _("A note has at most {limit} characters, and this one has {number:,}.")
        raise BotError(too_long.format(limit=MAX_FACT, number=len(fact)))
    return fact
