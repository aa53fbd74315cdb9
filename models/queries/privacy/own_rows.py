"""Which rows are a person's own, in one guild or in all (`guild_id=None`), as conditions on the tables.

A person's rows are those that name them (by a foreign key to `users`, or in a column with `NAMES_A_PERSON`), and the
turns and replies of their dialogs. Runs no query: `holdings`, `export` and `erasure` do.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, and_, or_, select, true
from sqlalchemy.orm import InstrumentedAttribute, aliased

from models.application import ours
from models.tables import Delivery, Dialog, PersonaAssignment, Report, ReportSpeaker, Turn, TurnFile

OWN_DATA = "a person's own data, in all their guilds"
"""Why these queries cross tenants."""


def in_guild(column: Any, guild_id: int | None) -> ColumnElement[bool]:
    """Match rows of this guild; every row without one."""
    return true() if guild_id is None else column == guild_id


def rows_naming(column: InstrumentedAttribute[Any], user_id: int, guild_id: int | None) -> ColumnElement[bool]:
    """Match rows of a guild's table that name the person in this column."""
    table = column.class_
    return and_(ours(table), column == user_id, in_guild(table.guild_id, guild_id))


def own_dialogs(user_id: int, guild_id: int | None) -> Select[int]:
    """Select the dialogs that belong to the person alone."""
    return select(Dialog.id).where(rows_naming(Dialog.user_id, user_id, guild_id))


def own_turns(user_id: int, guild_id: int | None) -> Select[int]:
    """Select what the person wrote, in dialogs of their own and in shared ones."""
    dialogs = select(Dialog.id).where(ours(Dialog), in_guild(Dialog.guild_id, guild_id))
    return select(Turn.id).where(Turn.author_id == user_id, Turn.dialog_id.in_(dialogs))


def quoted(user_id: int, guild_id: int | None) -> ColumnElement[bool]:
    """Match texts of this person that others have quoted, in the dialogs of any member."""
    dialogs = select(Dialog.id).where(ours(Dialog), in_guild(Dialog.guild_id, guild_id))
    turns = select(Turn.id).where(Turn.dialog_id.in_(dialogs))
    return and_(TurnFile.author_id == user_id, TurnFile.turn_id.in_(turns))


def assigned(user_id: int, guild_id: int | None) -> ColumnElement[bool]:
    """Match where a persona was set for this person, or by them."""
    columns = (PersonaAssignment.user_id, PersonaAssignment.set_by)
    return or_(*(rows_naming(column, user_id, guild_id) for column in columns))


def reports_with_words(user_id: int, guild_id: int | None) -> ColumnElement[bool]:
    """Match reports about somebody else's message whose prompt has words of this person."""
    of_ours = aliased(Report)
    spoken = (
        select(ReportSpeaker.report_id)
        .join(of_ours, of_ours.id == ReportSpeaker.report_id)
        .where(ours(of_ours), ReportSpeaker.user_id == user_id)
    )
    return and_(ours(Report), Report.id.in_(spoken), in_guild(Report.guild_id, guild_id))


def words_in_reports(user_id: int, guild_id: int | None) -> ColumnElement[bool]:
    """Match the records that this person's words are in the prompt of a report."""
    reports = select(Report.id).where(ours(Report), in_guild(Report.guild_id, guild_id))
    return and_(ReportSpeaker.user_id == user_id, ReportSpeaker.report_id.in_(reports))


def deliveries_without_turn(user_id: int, guild_id: int | None) -> ColumnElement[bool]:
    """Match deliveries of a message that waits, or whose turn was forgotten: they live for some seconds."""
    return and_(rows_naming(Delivery.asker_id, user_id, guild_id), Delivery.turn_id.is_(None))
