"""Which Discord application the database belongs to."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Snowflake, UTCDateTime


class DiscordApplication(Base):
    """The application that was first started with this database. A table of one row."""

    __tablename__ = "discord_application"
    __table_args__ = (
        CheckConstraint("id = 1", name="one_row"),
        {"comment": "The Discord application that this database belongs to"},
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, comment="Always 1")
    application_id: Mapped[int] = mapped_column(Snowflake, comment="Application whose bot uses it")
    since: Mapped[datetime] = mapped_column(UTCDateTime, comment="When that bot was first started with it")
