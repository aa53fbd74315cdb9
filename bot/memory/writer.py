"""Writes the memory of one dialog: facts from the messages that their members wrote, and a summary that rolls on.

The model is asked for little at a time, and each answer is stored at once: work that is cancelled goes on from there.
What was changed or forgotten while the model wrote is not stored. Knows the engine and the queries; knows neither
Discord nor when to work.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog

from bot.engine_client.engine import Engine
from bot.engine_client.messages import Message
from bot.engine_client.model_list import ModelList
from bot.errors import BotError
from bot.failpoint import failpoint
from bot.log import reason_of
from bot.memory import prompts
from bot.memory.cleaning import MAX_SUMMARY, clean_fact, clean_summary_line, without_questions
from bot.memory.words import says_the_same
from bot.settings import Settings
from bot.short_answers import ShortAnswers
from models.database import Database, Session
from models.queries.dialogs.pairs import names_in_dialog
from models.queries.memory import facts, summaries, work
from models.types import DialogKey, MemoryTask, RememberedPair, Summary

log = structlog.get_logger(__name__)

PAIRS_AT_ONCE = 5
"""Pairs that one line of a summary is about."""
IDLE = timedelta(minutes=10)
"""A dialog that has rested for this long is searched for facts to its end: it may not go on."""
_ROUNDS = 4
"""Lines that are written before another dialog has its turn."""
_PAUSE = timedelta(minutes=1)


class MemoryWriter:
    """Writes into one database, with the model that each guild has chosen."""

    def __init__(self, *, database: Database, engine: Engine | ModelList, settings: Settings) -> None:
        """`engine`: the only model, or all that guilds may choose."""
        self._database = database
        self._models = ModelList.of(engine)
        self._answers = {
            name: ShortAnswers(each, settings, lambda: database.application_id)
            for name, each in self._models.engines.items()
        }
        self._settings = settings

    async def may_ask(self, task: MemoryTask) -> bool:
        """Whether nobody else uses this dialog's engine now, as far as it tells: another process of the bot may."""
        return not await self._answers_for(task).are_busy(task.key)

    def is_due(self, task: MemoryTask, now: datetime) -> bool:
        """Whether there is something to write for this dialog."""
        return self._num_to_cover(task) > 0 or (
            task.last_turn_id > task.facts_to_turn_id and (task.ended or now - task.last_active_at >= IDLE)
        )

    async def work_on(self, task: MemoryTask) -> None:
        """Write what is due, unless another process does. A failure of the engine is tried again after a pause.

        Raises DatabaseError. The claim then stays, as after a cancellation: this process comes back to it.
        """
        claim = partial(work.claim_dialog, dialog_id=task.dialog_id, now=_now())
        if not await self._database.run(claim):
            return
        pause: timedelta | None = _PAUSE
        try:
            if self._num_to_cover(task):
                await self._cover(task)
            if task.ended or _now() - task.last_active_at >= IDLE:
                await self._look_for_facts(task, after=task.facts_to_turn_id)
            pause = None
        except BotError as error:
            log.info(
                "nothing was remembered", dialog=task.dialog_id, error=type(error).__name__, reason=reason_of(error)
            )
        await self._database.run(
            lambda session: work.release_dialog(session, dialog_id=task.dialog_id, pause=pause, now=_now())
        )

    def _num_to_cover(self, task: MemoryTask) -> int:
        """How many pairs the summary is to cover now: once the prompt is about to lose one, the older half of it.

        So the summary does not change with every turn, nor is anything lost before it is in a summary.
        """
        if task.ended:
            return 0
        limit = self._settings.max_chat_logs
        for chosen in (task.guild_chat_logs, task.own_chat_logs):
            limit = limit if chosen is None else min(limit, chosen)
        last = task.last_num_pairs
        if last is not None and last < min(limit, task.num_pairs - 1):
            limit = last + 1  # the context is shorter than what was asked for
        return 0 if task.num_new < max(1, limit) else task.num_new - limit // 2

    def _answers_for(self, task: MemoryTask) -> ShortAnswers:
        return self._answers[self._models.applying(task.guild_model)]

    async def _cover(self, task: MemoryTask) -> None:
        """Let the summary cover the pairs that the prompt loses, a few at a time, and look for their facts first."""
        left = self._num_to_cover(task)
        for _ in range(_ROUNDS):
            if left <= 0:
                return
            async with self._database.read() as session:
                before = await summaries.summary_of(session, key=task.key, dialog_id=task.dialog_id)
                pairs = await work.pairs_to_remember(
                    session,
                    key=task.key,
                    dialog_id=task.dialog_id,
                    after=0 if before is None else before.to_turn_id,
                    limit=min(left, PAIRS_AT_ONCE),
                    for_summary=True,
                )
            if not pairs:
                return
            await self._find_facts(task, [pair for pair in pairs if pair.turn_id > task.facts_to_turn_id])
            line = await self._summary_line(task, prompts.summary_prompt(pairs))
            lines = [each for each in ("" if before is None else before.text).split("\n") if each]
            text = await self._shortened(task, [*lines, line] if line else lines)
            if not await self._store_summary(task, text, before, pairs):
                return  # a pair was changed meanwhile: the next time begins with what is there then
            left -= len(pairs)

    async def _store_summary(
        self, task: MemoryTask, text: str, before: Summary | None, pairs: Sequence[RememberedPair]
    ) -> bool:
        async def store(session: Session) -> bool:
            if not await work.memory_is_wanted(session, key=task.key):
                return False
            stored = await summaries.store_summary(
                session, key=task.key, dialog_id=task.dialog_id, text=text, before=before, pairs=pairs, now=_now()
            )
            failpoint("in_summary")
            return stored

        stored = await self._database.run(store)
        failpoint("after_summary")
        return stored

    async def _shortened(self, task: MemoryTask, lines: list[str]) -> str:
        """The lines of a summary within MAX_SUMMARY: the older half is put together, or the oldest ones go."""
        if len("\n".join(lines)) > MAX_SUMMARY and len(lines) > 2:
            older, newer = lines[: len(lines) // 2], lines[len(lines) // 2 :]
            line = await self._summary_line(task, prompts.shorter_prompt(older))
            if line and len(line) < len("\n".join(older)):
                lines = [line, *newer]
        while len("\n".join(lines)) > MAX_SUMMARY:
            del lines[0]
        return "\n".join(lines)

    async def _summary_line(self, task: MemoryTask, prompt: Sequence[Message]) -> str:
        answer = await self._answers_for(task).ask(
            task.key, prompt, max_tokens=prompts.SUMMARY_TOKENS, response_format=prompts.summary_format()
        )
        return clean_summary_line(prompts.read_summary(answer))

    async def _look_for_facts(self, task: MemoryTask, *, after: int) -> None:
        """Look for facts in the rest of a dialog that rests or has ended."""
        for _ in range(_ROUNDS):
            async with self._database.read() as session:
                pairs = await work.pairs_to_remember(
                    session, key=task.key, dialog_id=task.dialog_id, after=after, limit=PAIRS_AT_ONCE
                )
            if not pairs:
                return
            await self._find_facts(task, pairs)
            after = pairs[-1].turn_id

    async def _find_facts(self, task: MemoryTask, pairs: Sequence[RememberedPair]) -> None:
        others = await self._names(task, pairs) if task.key.shared else {}
        for pair in pairs:
            found: list[str] = []
            message = without_questions(pair.user) if pair.wants_facts else ""
            if message:
                answer = await self._answers_for(task).ask(
                    task.key,
                    prompts.fact_prompt(message),
                    max_tokens=prompts.FACT_TOKENS,
                    response_format=prompts.facts_format(),
                )
                names = [name for author_id, name in others.items() if author_id != pair.author_id]
                found = _cleaned(prompts.read_facts(answer), message, names)
            await self._store_facts(task, pair, found)

    async def _store_facts(self, task: MemoryTask, pair: RememberedPair, found: Sequence[str]) -> None:
        about = DialogKey(task.key.guild_id, pair.author_id)

        async def store(session: Session) -> None:
            if found and await work.memory_is_wanted(session, key=about):
                await facts.store_facts(
                    session, key=about, texts=found, turn_id=pair.turn_id, same=says_the_same, now=_now()
                )
            await work.facts_looked_for(session, key=task.key, dialog_id=task.dialog_id, turn_id=pair.turn_id)

        await self._database.run(store)

    async def _names(self, task: MemoryTask, pairs: Sequence[RememberedPair]) -> dict[int, str]:
        """The names of those who speak in a shared dialog, by their ids."""
        async with self._database.read() as session:
            names = await names_in_dialog(session, key=task.key, dialog_id=task.dialog_id)
        return {**names, **{pair.author_id: pair.author for pair in pairs if pair.author is not None}}


def _cleaned(notes: Sequence[str], message: str, others: Collection[str]) -> list[str]:
    """The notes that are kept, each once."""
    kept: list[str] = []
    for note in notes:
        fact = clean_fact(note, message=message, others=others)
        if fact and not any(says_the_same(fact, each) for each in kept):
            kept.append(fact)
    return kept


def _now() -> datetime:
    return datetime.now(UTC)
