"""Answers that members report: copied with their prompt, and kept for the admins of the guild.

The prompt is built again from what is stored, as `guildllama db prompt` does. Knows the queries; who may report what,
and who reads it, is decided by the caller.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from bot.chat.prompts.rebuild import rebuild
from bot.engine_client.messages import text_of
from bot.settings import Settings
from bot.storage import translate_database_errors
from models.database import Database
from models.queries.administration import reports as queries
from models.queries.administration.report_speakers import answered_alone, speakers_in_prompt
from models.queries.dialogs.prompt_parts import prompt_parts
from models.types import DialogKey, ReportDetails, ReportedAnswer, ReportLine, ReportOutcome, TurnInfo

MAX_A_DAY = 5
"""Answers that one member may report in a guild within 24 hours."""
MAX_REASON = 1000
"""Characters of what a member writes about it."""


class Reports:
    """The reports of every guild in one database."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    async def add(self, key: DialogKey, turn: TurnInfo, channel_id: int, reason: str) -> ReportOutcome:
        """Store the key's member's report of an answer, with a copy of it."""
        answer = await self._copy(turn, by_asker=key.user_id == turn.author_id)
        now = datetime.now(UTC)
        with translate_database_errors():
            return await self._database.run(
                lambda session: queries.add_report(
                    session,
                    key=key,
                    turn_id=turn.turn_id,
                    channel_id=channel_id,
                    reason=reason,
                    answer=answer,
                    limit=MAX_A_DAY,
                    now=now,
                )
            )

    async def page(
        self, key: DialogKey, *, before: int | None = None, after: int | None = None, limit: int
    ) -> tuple[ReportLine, ...]:
        """Reports of the key's guild, newest first."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await queries.reports(session, key=key, before=before, after=after, limit=limit)

    async def counts(self, key: DialogKey) -> tuple[int, int]:
        """How many reports of the key's guild are open, and how many there are."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await queries.count_reports(session, key=key)

    async def details(self, key: DialogKey, report_id: int) -> ReportDetails | None:
        """One report of the key's guild with its copy."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await queries.report_details(session, key=key, report_id=report_id)

    async def close(self, key: DialogKey, report_id: int, *, closed: bool) -> bool:
        """Close a report of the key's guild, or open it again; the key's member does it. False if it is gone."""
        now = datetime.now(UTC)
        with translate_database_errors():
            return await self._database.run(
                lambda session: queries.close_report(
                    session, key=key, report_id=report_id, actor_id=key.user_id, closed=closed, now=now
                )
            )

    async def delete(self, key: DialogKey, report_id: int) -> bool:
        """Delete a report of the key's guild. False if it is gone."""
        now = datetime.now(UTC)
        with translate_database_errors():
            return await self._database.run(
                lambda session: queries.delete_report(
                    session, key=key, report_id=report_id, actor_id=key.user_id, now=now
                )
            )

    async def channel(self, key: DialogKey) -> int | None:
        """Where the admins of the key's guild want to read of reports."""
        with translate_database_errors():
            async with self._database.read() as session:
                return await queries.report_channel(session, key=key)

    async def set_channel(self, key: DialogKey, channel_id: int | None) -> None:
        """Choose that channel, or none."""
        now = datetime.now(UTC)
        with translate_database_errors():
            await self._database.run(
                lambda session: queries.set_report_channel(
                    session, key=key, channel_id=channel_id, actor_id=key.user_id, now=now
                )
            )

    async def _copy(self, turn: TurnInfo, *, by_asker: bool) -> ReportedAnswer:
        """The answer with what was asked, and the prompt if it was recorded.

        If somebody else than the asker reports it, without notes about the asker and what they asked in private:
        nobody else may see those, and no report of others may show them.
        """
        with translate_database_errors():
            async with self._database.read() as session:
                parts = await prompt_parts(session, turn_id=turn.turn_id)
                said = () if parts is None else tuple(pair.turn_id for pair in parts.history)
                speakers = await speakers_in_prompt(session, key=turn.key, turn_id=turn.turn_id, history=said)
                alone = frozenset() if by_asker else await answered_alone(session, key=turn.key, turn_ids=said)
        question, reply = turn.user_text, turn.reply or ""
        if parts is None:
            return ReportedAnswer(question, reply)
        if not by_asker:
            history = tuple(pair for pair in parts.history if pair.turn_id not in alone)
            summary = parts.summary if turn.key.shared else None
            parts = replace(parts, history=history, facts=(), summary=summary)
        prompt = await rebuild(parts, self._settings)
        messages = [{"role": each["role"], "content": text_of(each)} for each in prompt.messages]
        return ReportedAnswer(question, reply, messages, prompt.exact and parts.is_newest_reply, speakers)
