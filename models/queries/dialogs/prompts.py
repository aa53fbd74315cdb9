"""What the prompt of a turn was made of: recorded with its reply, for members who ask why and for operators."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.selectable import TypedReturnsRows

from models.application import ours
from models.queries.common import codec, count_rows, dialect, insert, insert_if_absent, matches_key, rows_of
from models.queries.memory.facts import facts_by_id, use_facts
from models.queries.memory.summaries import summary_by_id
from models.tables import DefaultPrompt, Dialog, Persona, Turn, TurnPrompt
from models.types import DialogKey, PromptInputs, PromptRecord, PromptUsed

_MAX_IDS = 500  # in one statement


_RECORDED = (
    "persona_id", "persona_version", "default_prompt_id", "first_turn_id", "num_pairs", "num_examples", "greeting",
    "lore", "summary_id", "fact_ids", "digest", "inputs",
)  # fmt: skip


@cache
def _put_record(on: str) -> TypedReturnsRows[int | None]:
    """Store the record of a turn; return under which id its prompt of the settings is kept, if it is kept already."""
    kept = select(DefaultPrompt.id).where(DefaultPrompt.sha256 == bindparam("default_sha256")).scalar_subquery()
    put = insert(on, TurnPrompt).values(default_prompt_id=kept)
    newer = {name: put.excluded[name] for name in _RECORDED}
    put = put.on_conflict_do_update(index_elements=["turn_id"], set_=newer)
    return put.returning(TurnPrompt.default_prompt_id)


async def record_prompt(
    session: AsyncSession, *, key: DialogKey, turn_id: int, record: PromptRecord | None, now: datetime
) -> None:
    """Record the prompt of a turn's present reply, which the caller has found by its key."""
    if record is None:
        return
    default = record.default_prompt
    values = {
        "turn_id": turn_id,
        "persona_id": record.persona_id,
        "persona_version": record.persona_version,
        "default_sha256": None if default is None else hashlib.sha256(default.encode()).hexdigest(),
        "first_turn_id": record.first_turn_id,
        "num_pairs": record.num_pairs,
        "num_examples": record.num_examples,
        "greeting": record.greeting,
        "lore": json.dumps(record.lore) if record.lore else None,
        "summary_id": record.summary_id,
        "fact_ids": json.dumps(record.fact_ids) if record.fact_ids else None,
        "digest": None if record.digest is None else codec(session).seal(record.digest),
        "inputs": None if record.inputs is None else codec(session).seal(_as_json(record.inputs)),
    }
    put = _put_record(dialect(session))
    known = (await rows_of(session, put, values)).scalar_one() is not None
    if default is not None and not known:  # the first reply with this prompt of the settings
        await insert_if_absent(
            session,
            DefaultPrompt,
            sha256=values["default_sha256"],
            text=codec(session).seal(default),
            first_used_at=now,
        )
        await rows_of(session, put, values)
    await use_facts(session, key=key, fact_ids=record.fact_ids, now=now)


async def prompt_of_turn(session: AsyncSession, *, key: DialogKey, turn_id: int) -> PromptUsed | None:
    """Return what the prompt of a turn was made of, with what of that still exists; None if it was not recorded."""
    mine = select(TurnPrompt, Turn.dialog_id).join(Turn, Turn.id == TurnPrompt.turn_id).join(Dialog)
    row = (await session.execute(mine.where(matches_key(key), Turn.id == turn_id))).one_or_none()
    if row is None:
        return None
    record = _record(session, row.TurnPrompt, None)
    before = select(func.count(Turn.id)).where(Turn.dialog_id == row.dialog_id, Turn.id < turn_id)
    name = None
    if record.persona_id is not None:
        here = select(Persona.name).where(
            Persona.id == record.persona_id, ours(Persona), Persona.guild_id == key.guild_id
        )
        name = await session.scalar(here)
    summary = None
    if record.summary_id is not None:
        summary = await summary_by_id(session, key=key, summary_id=record.summary_id)
    return PromptUsed(
        record=record,
        persona_name=name,
        num_before=await count_rows(session, before.where(Turn.status == "done")),
        facts=await facts_by_id(session, key=key, fact_ids=record.fact_ids) if record.fact_ids else (),
        summary=summary,
    )


async def prompts_of(session: AsyncSession, *, turn_ids: Sequence[int]) -> dict[int, PromptRecord]:
    """Return the records of these turns, by turn id. The caller must have found the turns by their key."""
    text, found = codec(session), {}
    for start in range(0, len(turn_ids), _MAX_IDS):
        rows = await session.execute(
            select(TurnPrompt, DefaultPrompt.text)
            .outerjoin(DefaultPrompt, DefaultPrompt.id == TurnPrompt.default_prompt_id)
            .where(TurnPrompt.turn_id.in_(turn_ids[start : start + _MAX_IDS]))
        )
        for row in rows:
            default = None if row.text is None else text.open(row.text)
            found[row.TurnPrompt.turn_id] = _record(session, row.TurnPrompt, default)
    return found


def _record(session: AsyncSession, row: TurnPrompt, default_prompt: str | None) -> PromptRecord:
    opened = codec(session).open
    return PromptRecord(
        persona_id=row.persona_id,
        persona_version=row.persona_version,
        default_prompt=default_prompt,
        first_turn_id=row.first_turn_id,
        num_pairs=row.num_pairs,
        num_examples=row.num_examples,
        greeting=row.greeting,
        lore=tuple(json.loads(row.lore)) if row.lore else (),
        summary_id=row.summary_id,
        fact_ids=tuple(json.loads(row.fact_ids)) if row.fact_ids else (),
        digest=None if row.digest is None else opened(row.digest),
        inputs=None if row.inputs is None else _from_json(opened(row.inputs)),
    )


def _as_json(inputs: PromptInputs) -> str:
    """Only what is not the default: most turns have little of it."""
    given = {each.name: getattr(inputs, each.name) for each in fields(inputs)}
    return json.dumps({name: value for name, value in given.items() if value not in (None, "", 0, ())})


def _from_json(text: str) -> PromptInputs:
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()
    }
    given["scene"] = tuple((persona_id, name) for persona_id, name in given.get("scene", ()))
    return PromptInputs(**given)
