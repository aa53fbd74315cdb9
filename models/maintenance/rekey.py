"""Re-encrypts stored text with the newest key, or decrypts it, in small transactions while the bot runs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from models.database import Database
from models.queries.common import codec
from models.queries.scope import cross_application
from models.tables import (
    Base,
    DefaultPrompt,
    Delivery,
    DeliveryMessage,
    Dialog,
    DialogSummary,
    Fact,
    GuildFilterWord,
    MemberBlock,
    PersonaPicture,
    PersonaVersion,
    ReplyVariant,
    Report,
    Turn,
    TurnFile,
    TurnPrompt,
)

BATCH = 100  # rows per transaction
# Table, primary key, encrypted columns.
_ENCRYPTED: tuple[tuple[type[Base], tuple[InstrumentedAttribute[int], ...], tuple[str, ...]], ...] = (
    (Turn, (Turn.id,), ("user_text", "reply", "author_name", "files_note", "speaker_name")),
    (Dialog, (Dialog.id,), ("name",)),
    (TurnFile, (TurnFile.turn_id, TurnFile.position), ("name", "content")),
    (Delivery, (Delivery.id,), ("reply_token", "webhook_name")),
    (DeliveryMessage, (DeliveryMessage.delivery_id, DeliveryMessage.position), ("content",)),
    (ReplyVariant, (ReplyVariant.turn_id, ReplyVariant.position), ("reply", "speaker_name")),
    (PersonaVersion, (PersonaVersion.persona_id, PersonaVersion.version), ("prompt", "card")),
    (PersonaPicture, (PersonaPicture.persona_id,), ("content",)),
    (DefaultPrompt, (DefaultPrompt.id,), ("text",)),
    (TurnPrompt, (TurnPrompt.turn_id,), ("digest", "inputs")),
    (DialogSummary, (DialogSummary.id,), ("text",)),
    (Fact, (Fact.id,), ("text",)),
    (
        GuildFilterWord,
        (GuildFilterWord.guild_id, GuildFilterWord.position, GuildFilterWord.application_id),
        ("word",),
    ),
    (MemberBlock, (MemberBlock.guild_id, MemberBlock.user_id, MemberBlock.application_id), ("reason",)),
    (Report, (Report.id,), ("reason", "pair", "prompt")),
)


async def rekey(database: Database, *, plain: bool = False) -> dict[str, int]:
    """Re-encrypt every text, or store it decrypted if `plain`. Returns the number of changed rows of each table.

    May be stopped and repeated: text that is already as wanted is skipped. Raises WrongEncryptionKey.
    """
    changed = {}
    for table, primary_key, names in _ENCRYPTED:
        total, after = 0, (-1,) * len(primary_key)
        while True:
            async with database.write() as session:
                count, last = await _rekey_batch(session, table, primary_key, names, after, plain)
            total += count
            if last is None:
                break
            after = last
        changed[table.__tablename__] = total
    return changed


@cross_application("the operator changes the key of all stored text")
async def _rekey_batch(
    session: AsyncSession,
    table: type[Base],
    primary_key: tuple[InstrumentedAttribute[int], ...],
    names: tuple[str, ...],
    after: tuple[int, ...],
    plain: bool,
) -> tuple[int, tuple[int, ...] | None]:
    """Re-encrypt the BATCH rows after key `after`; return how many changed and the last key (None at the end)."""
    columns = [getattr(table, name) for name in names]
    rows = (
        await session.execute(
            select(*primary_key, *columns).where(tuple_(*primary_key) > after).order_by(*primary_key).limit(BATCH)
        )
    ).all()
    text, changed = codec(session), 0
    for row in rows:
        new_values: dict[str, Any] = {}
        for name, stored in zip(names, row[len(primary_key) :], strict=True):
            resealed = text.reseal(stored, plain=plain) if isinstance(stored, str) else None
            if resealed is not None:
                new_values[name] = resealed
        if new_values:
            where = [column == value for column, value in zip(primary_key, row, strict=False)]
            await session.execute(update(table).where(*where).values(**new_values))
            changed += 1
    return changed, tuple(rows[-1][: len(primary_key)]) if len(rows) == BATCH else None
