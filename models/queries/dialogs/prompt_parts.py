"""Everything that the prompt of a turn was made of, so that the operator can have it built again."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import codec
from models.queries.dialogs.pairs import pairs_before
from models.queries.dialogs.prompts import prompts_of
from models.queries.dialogs.turn_files import files_of
from models.queries.memory.facts import facts_in_guild
from models.queries.memory.summaries import summary_by_id
from models.queries.scope import cross_tenant
from models.tables import Dialog, Persona, PersonaVersion, ReplyVariant, Turn
from models.types import EVERYBODY, UNNAMED_SPEAKER, DialogKey, Pair, PersonaText, PromptParts, PromptRecord


@cross_tenant("the operator's overview")
async def prompt_parts(session: AsyncSession, *, turn_id: int) -> PromptParts | None:
    """Return what the prompt of a turn was made of, as far as it still exists; None if nothing was recorded."""
    row = (
        await session.execute(select(Turn, Dialog).join(Dialog).where(ours(Dialog), Turn.id == turn_id))
    ).one_or_none()
    record = (await prompts_of(session, turn_ids=[turn_id])).get(turn_id)
    if row is None or record is None:
        return None
    turn, dialog, text = row.Turn, row.Dialog, codec(session)
    shared = dialog.user_id == EVERYBODY
    author_id = dialog.user_id if turn.author_id is None else turn.author_id
    key = DialogKey(dialog.guild_id, author_id, dialog.channel_id, shared)
    summary = None
    if record.summary_id is not None:
        summary = await summary_by_id(session, key=key, summary_id=record.summary_id)
    return PromptParts(
        key=key,
        turn_id=turn_id,
        dialog_id=dialog.id,
        text=text.open(turn.user_text),
        reply="" if turn.reply is None else text.open(turn.reply),
        author=None if turn.author_name is None else text.open(turn.author_name),
        files=(await files_of(session, turn_ids=[turn_id])).get(turn_id, ()),
        record=record,
        persona=await _persona(session, dialog.guild_id, record),
        history=await _history(session, dialog, turn_id, record),
        summary=summary,
        facts=await facts_in_guild(session, guild_id=dialog.guild_id, fact_ids=record.fact_ids),
        is_newest_reply=await _is_newest_reply(session, turn_id),
    )


async def _persona(session: AsyncSession, guild_id: int, record: PromptRecord) -> PersonaText | None:
    """The version that answered, under the name that it had; or the prompt of the settings. None if it is gone."""
    if record.persona_id is None:
        return None if record.default_prompt is None else PersonaText("default", "", record.default_prompt, 0)
    row = await session.scalar(
        select(PersonaVersion)
        .join(Persona, Persona.id == PersonaVersion.persona_id)
        .where(ours(Persona), Persona.guild_id == guild_id, Persona.id == record.persona_id)
        .where(PersonaVersion.version == record.persona_version)
    )
    if row is None:
        return None
    name = row.name if record.inputs is None else record.inputs.persona_name
    opened = codec(session).open
    card = None if row.card is None else opened(row.card)
    return PersonaText("guild", name, opened(row.prompt), row.version, row.persona_id, card)


async def _history(session: AsyncSession, dialog: Dialog, turn_id: int, record: PromptRecord) -> tuple[Pair, ...]:
    """The pairs from the oldest one on that was read for the prompt."""
    oldest = record.first_turn_id if record.inputs is None else record.inputs.history_turn_id
    if oldest is None:
        return ()
    count = record.num_pairs if record.inputs is None else record.inputs.max_pairs
    pairs = await pairs_before(session, dialog.id, turn_id, count)
    pairs = tuple(pair for pair in pairs if pair.turn_id >= oldest)
    elsewhere = select(Dialog.id).join(Turn).where(Turn.id == oldest, ours(Dialog), Dialog.guild_id == dialog.guild_id)
    other_dialog = await session.scalar(elsewhere.where(Dialog.id != dialog.id))
    if other_dialog is None:
        return pairs
    # The pair under whose reply the thread of this dialog was started.
    above = await pairs_before(session, other_dialog, oldest + 1, 1)
    return (
        *(replace(pair, author=pair.author or UNNAMED_SPEAKER) for pair in above if pair.turn_id == oldest),
        *pairs,
    )


async def _is_newest_reply(session: AsyncSession, turn_id: int) -> bool:
    newest = select(func.max(ReplyVariant.position)).where(ReplyVariant.turn_id == turn_id)
    used = select(ReplyVariant.position).where(ReplyVariant.turn_id == turn_id, ReplyVariant.active)
    return bool(await session.scalar(newest) == await session.scalar(used))
