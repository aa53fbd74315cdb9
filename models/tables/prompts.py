"""What the prompt of a turn was made of, so that it can be made again."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, RowId, UTCDateTime

_SUMMARISED = text("summary_id IS NOT NULL")


class DefaultPrompt(Base):
    """A system prompt of the operator's settings; each of them is kept, as long as a turn may refer to it."""

    __tablename__ = "default_prompts"
    __table_args__ = (
        UniqueConstraint("sha256"),
        {"comment": "System prompts of the settings, as far as turns were answered with them",
         "sqlite_autoincrement": True},
    )  # fmt: skip

    id: Mapped[int] = mapped_column(RowId, primary_key=True, comment="Row id, never used again")
    sha256: Mapped[str] = mapped_column(Text, comment="Hash of the text, by which it is found again")
    text: Mapped[str] = mapped_column(Text, comment="The prompt, sealed when encryption is on")
    first_used_at: Mapped[datetime] = mapped_column(UTCDateTime, comment="When a turn first had it")


class TurnPrompt(Base):
    """What the prompt of a turn's present reply was made of, beside the words and files of the turn itself."""

    __tablename__ = "turn_prompts"
    __table_args__ = (
        Index("ix_turn_prompts_persona", "persona_id", "persona_version"),
        Index("ix_turn_prompts_default_prompt_id", "default_prompt_id"),
        Index("ix_turn_prompts_summary_id", "summary_id", sqlite_where=_SUMMARISED, postgresql_where=_SUMMARISED),
        {"comment": "What the prompt of each turn was made of"},
    )

    turn_id: Mapped[int] = mapped_column(
        RowId, ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True, autoincrement=False, comment="Turn"
    )
    persona_id: Mapped[int | None] = mapped_column(
        RowId, comment="Persona, which may have been deleted since; NULL: the default prompt"
    )
    persona_version: Mapped[int | None] = mapped_column(comment="Its version, kept as long as a turn has it")
    default_prompt_id: Mapped[int | None] = mapped_column(
        RowId, ForeignKey("default_prompts.id", ondelete="SET NULL"), comment="Prompt of the settings, if it was that"
    )
    first_turn_id: Mapped[int | None] = mapped_column(RowId, comment="Oldest pair in the prompt; NULL if it had none")
    num_pairs: Mapped[int] = mapped_column(comment="Pairs of history in the prompt")
    num_examples: Mapped[int] = mapped_column(server_default="0", comment="Example turns of the card")
    greeting: Mapped[int | None] = mapped_column(comment="Which greeting of the card stood first, from 0; NULL: none")
    lore: Mapped[str | None] = mapped_column(Text, comment="JSON: ids of the lorebook entries in the prompt")
    summary_id: Mapped[int | None] = mapped_column(RowId, comment="Summary of what came before, if there was one")
    fact_ids: Mapped[str | None] = mapped_column(Text, comment="JSON: ids of the facts in the prompt")
    digest: Mapped[str | None] = mapped_column(
        Text, comment="SHA-256 of the messages as they were sent, sealed when encryption is on"
    )
    inputs: Mapped[str | None] = mapped_column(
        Text, comment="JSON: what else the prompt depended on, sealed when encryption is on"
    )
