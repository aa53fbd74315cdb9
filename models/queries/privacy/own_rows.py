"""Which rows are a person's own, in one guild or in all (`guild_id=None`), as conditions on the tables.

A person's rows are those with a foreign key to `users`, and the turns and replies of their dialogs. Runs no query:
`holdings`, `export` and `erasure` do.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, and_, or_, select, true

from models.tables import Delivery, Dialog, Fact, PersonaAssignment, Report, ReportSpeaker, Turn, TurnFile

OWN_DATA = "a person's own data, in all their guilds"
"""Why these queries cross tenants."""


def in_guild(column: Any, guild_id: int | None) -> ColumnElement[bool]:
    """Match rows of this guild; every row without one."""
    return true() if guild_id is None else column == guild_id


def own_dialogs(user_id: int, guild_id: int | None) -> Select[int]:
    """Select the dialogs that belong to the person alone."""
    return select(Dialog.id).where(Dialog.user_id == user_id, in_guild(Dialog.guild_id, guild_id))


def own_turns(user_id: int, guild_id: int | None) -> Select[int]:
    """Select what the person wrote, in dialogs of their own and in shared ones."""
    dialogs = select(Dialog.id).where(in_guild(Dialog.guild_id, guild_id))
    return select(Turn.id).where(Turn.author_id == user_id, Turn.dialog_id.in_(dialogs))


def quoted(user_id: int, guild_id: int | None) -> ColumnElement[bool]:
    """Match texts of this person that others have quoted, in the dialogs of any member."""
    dialogs = select(Dialog.id).where(in_guild(Dialog.guild_id, guild_id))
    own = TurnFile.author_id == user_id
    return (
        own if guild_id is None else and_(own, TurnFile.turn_id.in_(select(Turn.id).where(Turn.dialog_id.in_(dialogs))))
    )


def facts_about(user_id: int, guild_id: int | None) -> ColumnElement[bool]:
    """Match what the bot remembers about the person."""
    return and_(Fact.user_id == user_id, in_guild(Fact.guild_id, guild_id))


def assigned(user_id: int, guild_id: int | None) -> ColumnElement[bool]:
    """Match where a persona was set for this person, or by them."""
    who = or_(PersonaAssignment.user_id == user_id, PersonaAssignment.set_by == user_id)
    return and_(who, in_guild(PersonaAssignment.guild_id, guild_id))


def reports_of_words(user_id: int, guild_id: int | None) -> ColumnElement[bool]:
    """Match reports that have a copy of what the person wrote and of the answer to it."""
    return and_(Report.author_id == user_id, in_guild(Report.guild_id, guild_id))


def reports_with_words(user_id: int, guild_id: int | None) -> ColumnElement[bool]:
    """Match reports about somebody else's message whose prompt has words of this person."""
    spoken = select(ReportSpeaker.report_id).where(ReportSpeaker.user_id == user_id)
    return and_(Report.id.in_(spoken), in_guild(Report.guild_id, guild_id))


def reports_made(user_id: int, guild_id: int | None) -> ColumnElement[bool]:
    """Match the person's own reports."""
    return and_(Report.reporter_id == user_id, in_guild(Report.guild_id, guild_id))


def deliveries_without_turn(user_id: int, guild_id: int | None) -> ColumnElement[bool]:
    """Match deliveries of a message that waits, or whose turn was forgotten: they live for some seconds."""
    return and_(Delivery.turn_id.is_(None), Delivery.asker_id == user_id, in_guild(Delivery.guild_id, guild_id))
