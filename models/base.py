"""The declarative base, constraint names, and the column types that behave alike on SQLite and Postgres."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import BigInteger, DateTime, ForeignKeyConstraint, Integer, MetaData, types
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, MappedColumn, mapped_column

from models.application import current_application

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UTCDateTime(types.TypeDecorator[datetime]):
    """Aware UTC in Python; timestamptz on Postgres, ISO text in UTC on SQLite. Refuses naive datetimes (ValueError)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC on the way in; SQLite stores it without the offset."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without a zone cannot be stored: {value!r}")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return an aware datetime in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


NAMES_A_PERSON = {"names_a_person": True}
"""`info` of a column that names a person and has no foreign key: a deletion of the person clears it by a query.

A foreign key would have to clear the application of the row as well.
"""
Snowflake = BigInteger
# SQLite assigns row ids automatically only in a column declared INTEGER.
RowId = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """Declarative base of every table."""

    metadata = MetaData(naming_convention=NAMING)


def application_column(*, primary_key: bool = False) -> MappedColumn[int]:
    """Return the column that says to which application a row belongs; an INSERT takes it from the transaction.

    It comes last in keys and in most indexes: nearly all rows have the same, so an index that begins with it finds
    nothing. It comes first in partial indexes, which are used for their condition.
    """
    return mapped_column(
        Snowflake,
        primary_key=primary_key,
        autoincrement=False,
        default=current_application,
        server_default="0",
        sort_order=1,
        comment="Application whose bot it belongs to; 0 is the terminal",
    )


def in_application(table: str, column: str) -> ForeignKeyConstraint:
    """Return a foreign key to a guild or a user of the same application; the row goes with it."""
    return ForeignKeyConstraint(
        [column, "application_id"], [f"{table}.id", f"{table}.application_id"], ondelete="CASCADE"
    )
